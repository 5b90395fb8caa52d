// fuse="steps" (one layer a call) and fuse="layers" (all of them): the operators `lstm` and
// `lstm_backward`. Schemas: kernels/fused_lstm/ops.py. Here tensors are checked and allocated, and handed on
// as pointers; nothing is allocated below this file. Layers run one after another, each step of a
// layer divided among all workers, or, where a step is too small for that, as a wavefront.
#include "drop.h"
#include "memory.h"

#include <algorithm>

namespace fused_lstm {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr long chunk_bytes = 16 << 20;  // of input product at once, where nothing is saved

struct Sizes {
  long steps, batch, inputs, hidden, layers, per_layer;
  bool together;                // layers need not take turns
  at::ScalarType given, dtype;  // of the arguments, and of the computation
};

Sizes check_arguments(const Tensor& x, const Tensor& h0, const Tensor& c0, at::TensorList weights,
                      double dropout, const OptionalTensor& seed, std::string_view fuse) {
  TORCH_CHECK_VALUE(x.dim() == 3, "x: got shape ", x.sizes(), ", should be [T, B, I]");
  TORCH_CHECK_VALUE(h0.dim() == 3, "h0: got shape ", h0.sizes(), ", should be [L, B, H]");
  Sizes s{x.size(0),  x.size(1), x.size(2), h0.size(2),
          h0.size(0), 0,         fuse == "layers", x.scalar_type(), compute_dtype(x, "x")};
  TORCH_CHECK_VALUE(s.together || fuse == "steps", "fuse: got '", fuse,
                    "', should be 'steps' or 'layers'");
  const long count = static_cast<long>(weights.size());
  TORCH_CHECK_VALUE(s.steps > 0, "x: got no time steps (shape ", x.sizes(), "), should have one");
  TORCH_CHECK_VALUE(count == 2 * s.layers || count == 4 * s.layers, "weights: got ", count,
                    " tensors, should be 2 or 4 for each of ", s.layers, " layers");
  s.per_layer = count / s.layers;
  check(h0, "h0", {s.layers, s.batch, s.hidden}, s.given);
  check(c0, "c0", h0.sizes(), s.given);
  for (long i = 0; i < count; ++i) {
    const long k = i % s.per_layer, gates = 4 * s.hidden;
    const long inputs = k == 0 && i == 0 ? s.inputs : s.hidden;
    const std::string name = "weights[" + std::to_string(i) + "]";
    if (k < 2) check(weights[i], name.c_str(), {gates, inputs}, s.given);
    if (k >= 2) check(weights[i], name.c_str(), {gates}, s.given);
  }
  TORCH_CHECK_VALUE(dropout >= 0 && dropout <= 1, "dropout: got ", dropout,
                    ", should be in [0, 1]");
  TORCH_CHECK_VALUE(dropout == 0 || seed.has_value(), "seed: got None, should be [1] int64");
  if (seed) check(*seed, "seed", {1}, at::kLong);
  return s;
}

std::vector<Tensor> converted(at::TensorList tensors, at::ScalarType dtype) {
  std::vector<Tensor> result;
  for (const Tensor& tensor : tensors) result.push_back(fused_lstm::converted(tensor, dtype));
  return result;
}

// A row of a contiguous tensor [L, ...], or null where there is none.
template <class T>
T* row(const Tensor& tensor, long index) {
  if (!tensor.defined() || tensor.numel() == 0) return nullptr;
  return tensor.data_ptr<T>() + index * (tensor.numel() / tensor.size(0));
}

template <class T>
struct Buffers {
  Tensor recurrent, panels;

  Buffers(const Kernels<T>& kernels, const Sizes& s, const at::TensorOptions& options)
      : recurrent(fresh({kernels.recurrent_size(s.hidden)}, options)),
        panels(fresh({team_size(), kernels.panel_size}, options)) {}

  Scratch<T> pointers() const { return {recurrent.data_ptr<T>(), panels.data_ptr<T>()}; }
};

// The arguments of layer `index` that its forward and its backward have in common.
template <class T>
Layer<T> layer_arguments(const Sizes& s, const std::vector<Tensor>& weights, const Tensor& x,
                         const Tensor& h0, const Tensor& c0, long index) {
  const Tensor* own = &weights[index * s.per_layer];
  Layer<T> layer{};
  layer.steps = s.steps;
  layer.batch = s.batch;
  layer.inputs = x.size(2);
  layer.hidden = s.hidden;
  layer.x = x.data_ptr<T>();
  layer.h0 = row<T>(h0, index);
  layer.c0 = row<T>(c0, index);
  layer.w_ih = own[0].data_ptr<T>();
  layer.w_hh = own[1].data_ptr<T>();
  layer.b_ih = s.per_layer == 4 ? own[2].data_ptr<T>() : nullptr;
  layer.b_hh = s.per_layer == 4 ? own[3].data_ptr<T>() : nullptr;
  return layer;
}

// x of the layer above the one whose output is `h`, the index-th of those below the last.
template <class T>
void drop_layer(const Kernels<T>& kernels, const Dropout& dropout, long index, const Tensor& h,
                const Tensor& out) {
  drop(kernels, dropout, index * h.numel(), h, out);
}

// Whether layers rather than a step's units are divided among the workers. Measured on two cores
// of a Zen 4, with 1 MiB of L2 cache each: worth 10 to 25 percent up to 64 units, nothing at 256,
// where a layer's weights no longer fit one cache, and with a few rows, where reading the weights
// is all there is, dividing those is better. On a Zen 5 no difference was seen.
bool as_wavefront(const Sizes& s) {
  const long workers = team_size(), widest = s.batch < 4 ? 64 : 200;
  return s.together && workers > 1 && s.layers % workers == 0 && std::max(s.inputs, s.hidden) <= widest;
}

template <class T>
Tensor packed_layers(const Kernels<T>& kernels, const Sizes& s,
                     const at::TensorOptions& options) {
  return fresh({s.layers, kernels.wavefront_size(std::max(s.inputs, s.hidden), s.hidden)},
               options);
}

template <class T>
Wavefront<T> wavefront_of(const std::vector<Layer<T>>& layers, const Dropout& dropout,
                          const Tensor& dropped, const Tensor& packed) {
  Wavefront<T> wave{};
  wave.layers = layers.data();
  wave.count = static_cast<long>(layers.size());
  wave.dropout = dropout;
  wave.dropped = row<T>(dropped, 0);
  wave.packed = packed.data_ptr<T>();
  wave.packed_size = packed.size(1);
  return wave;
}

// [T, B, H] between two layers: one buffer for each pair, or one for all.
Tensor between_layers(const Sizes& s, bool each, const at::TensorOptions& options) {
  return fresh({each ? s.layers - 1 : 1, s.steps, s.batch, s.hidden}, options);
}

struct Forward {
  Tensor y, h_n, c_n, h, c, gates;
};

template <class T>
Forward run_forward(const Kernels<T>& kernels, const Sizes& s, const Tensor& x, const Tensor& h0,
                    const Tensor& c0, const std::vector<Tensor>& weights, const Dropout& dropout,
                    bool save) {
  const auto options = x.options();
  const bool wave = as_wavefront(s), keep = save || wave;
  const long step_bytes = s.batch * 4 * s.hidden * static_cast<long>(sizeof(T));
  const long fit = std::clamp(chunk_bytes / std::max(step_bytes, 1L), 1L, s.steps);
  const long chunk = save ? s.steps : fit;
  Forward out;
  out.y = fresh({s.steps, s.batch, s.hidden}, options);
  out.h_n = fresh_like(h0);
  out.c_n = fresh_like(c0);
  out.h = fresh({keep ? s.layers - 1 : 0, s.steps, s.batch, s.hidden}, options);
  out.c = fresh({keep ? s.layers : 1, save ? s.steps : 1, s.batch, s.hidden}, options);
  out.gates = fresh({save ? s.layers : 1, chunk, s.batch, 4 * s.hidden}, options);
  const bool dropping = dropout.probability > 0 && s.layers > 1;
  const Tensor dropped = dropping ? between_layers(s, wave, options) : Tensor();
  // Where nothing is kept, every layer writes its output over its input, which it has used.
  const auto y_of = [&](long index) {
    return keep && index + 1 < s.layers ? out.h.select(0, index) : out.y;
  };
  std::vector<Layer<T>> layers;
  for (long index = 0; index < s.layers; ++index) {
    const Tensor below = index > 0 ? y_of(index - 1) : x;
    const Tensor input = index > 0 && dropping ? dropped.select(0, wave ? index - 1 : 0) : below;
    Layer<T> layer = layer_arguments<T>(s, weights, input, h0, c0, index);
    layer.y = y_of(index).template data_ptr<T>();
    layer.c = row<T>(out.c, keep ? index : 0);
    layer.gates = row<T>(out.gates, save ? index : 0);
    layer.chunk = chunk;
    layer.save = save;
    layers.push_back(layer);
  }
  const auto finish = [&](long index) {
    const long state = s.batch * s.hidden;
    const T* const h = layers[index].y + (s.steps - 1) * state;
    const T* const c = layers[index].c + (save ? s.steps - 1 : 0) * state;
    std::copy_n(h, state, row<T>(out.h_n, index));
    std::copy_n(c, state, row<T>(out.c_n, index));
  };
  if (wave) {
    const Tensor packed = packed_layers(kernels, s, options);
    const Wavefront<T> arguments = wavefront_of(layers, dropout, dropped, packed);
    run_on_team([&](const Worker& worker) { kernels.wavefront_forward(worker, arguments); });
    for (long index = 0; index < s.layers; ++index) finish(index);
    return out;
  }
  const Buffers<T> buffers(kernels, s, options);
  for (long index = 0; index < s.layers; ++index) {
    run_on_team([&](const Worker& worker) {
      kernels.forward(worker, layers[index], buffers.pointers());
    });
    finish(index);
    if (dropping && index + 1 < s.layers) drop_layer(kernels, dropout, index, y_of(index), dropped);
  }
  return out;
}

struct Backward {
  Tensor dx, dh0, dc0;
  std::vector<Tensor> dweights;
};

template <class T>
Backward run_backward(const Kernels<T>& kernels, const Sizes& s, const Tensor& dy,
                      const Tensor& dh_n, const Tensor& dc_n, const Tensor& x, const Tensor& h0,
                      const Tensor& c0, const std::vector<Tensor>& weights, const Dropout& dropout,
                      const Forward& saved, bool needs_dx) {
  const auto options = x.options();
  const bool wave = as_wavefront(s);
  Backward out;
  out.dx = needs_dx ? fresh_like(x) : at::empty({0}, options);
  out.dh0 = fresh_like(h0);
  out.dc0 = fresh_like(c0);
  if (dc_n.defined()) std::copy_n(dc_n.data_ptr<T>(), dc_n.numel(), out.dc0.data_ptr<T>());
  if (!dc_n.defined()) std::fill_n(out.dc0.data_ptr<T>(), out.dc0.numel(), T(0));
  for (const Tensor& weight : weights) out.dweights.push_back(fresh_like(weight));
  const long dgates_size = kernels.dgates_size(s.steps * s.batch, s.hidden);
  const Tensor dgates = fresh({wave ? s.layers : 1, dgates_size}, options);
  const bool dropping = dropout.probability > 0 && s.layers > 1;
  const Tensor dropped = dropping ? between_layers(s, wave, options) : Tensor();
  // What goes from a layer to the one below: where layers take turns, a layer writes its dx over
  // its dy, which it has used.
  const Tensor between = s.layers > 1 ? between_layers(s, wave, options) : Tensor();
  std::vector<Layer<T>> layers;
  std::vector<LayerGradient<T>> gradients;
  for (long index = 0; index < s.layers; ++index) {
    const bool top = index + 1 == s.layers;
    const Tensor below = index > 0 ? saved.h.select(0, index - 1) : x;
    const Tensor input = index > 0 && dropping ? dropped.select(0, wave ? index - 1 : 0) : below;
    Layer<T> layer = layer_arguments<T>(s, weights, input, h0, c0, index);
    layer.y = top ? saved.y.data_ptr<T>() : row<T>(saved.h, index);
    layer.c = row<T>(saved.c, index);
    layer.gates = row<T>(saved.gates, index);
    layers.push_back(layer);
    const Tensor* own = &out.dweights[index * s.per_layer];
    LayerGradient<T> gradient{};
    gradient.dy = top ? row<T>(dy, 0) : row<T>(between, wave ? index : 0);
    gradient.dh_n = row<T>(dh_n, index);
    gradient.dx = index > 0 ? row<T>(between, wave ? index - 1 : 0) : row<T>(out.dx, 0);
    gradient.dh0 = row<T>(out.dh0, index);
    gradient.dc0 = row<T>(out.dc0, index);
    gradient.dw_ih = own[0].data_ptr<T>();
    gradient.dw_hh = own[1].data_ptr<T>();
    gradient.db = s.per_layer == 4 ? own[2].data_ptr<T>() : nullptr;
    gradient.dgates = row<T>(dgates, wave ? index : 0);
    gradients.push_back(gradient);
  }
  const Buffers<T> buffers(kernels, s, options);
  if (wave) {
    const Tensor packed = packed_layers(kernels, s, options);
    Wavefront<T> arguments = wavefront_of(layers, dropout, dropped, packed);
    arguments.gradients = gradients.data();
    run_on_team([&](const Worker& worker) {
      kernels.wavefront_backward(worker, arguments, buffers.pointers().panels);
    });
  } else {
    for (long index = s.layers - 1; index >= 0; --index) {
      if (index > 0 && dropping) {
        drop_layer(kernels, dropout, index - 1, saved.h.select(0, index - 1), dropped);
      }
      run_on_team([&](const Worker& worker) {
        kernels.backward(worker, layers[index], gradients[index], buffers.pointers());
      });
      if (index > 0 && dropping) drop_layer(kernels, dropout, index - 1, between, between);
    }
  }
  for (long index = 0; s.per_layer == 4 && index < s.layers; ++index) {
    const Tensor& bias = out.dweights[4 * index + 2];
    std::copy_n(bias.data_ptr<T>(), bias.numel(), out.dweights[4 * index + 3].data_ptr<T>());
  }
  return out;
}

Tensor optional_converted(const OptionalTensor& tensor, const char* name, at::IntArrayRef shape,
                          const Sizes& s) {
  if (!tensor || !tensor->defined()) return Tensor();
  check(*tensor, name, shape, s.given);
  return fused_lstm::converted(*tensor, s.dtype);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm(
    const Tensor& x, const Tensor& h0, const Tensor& c0, at::TensorList weights, double dropout,
    const OptionalTensor& seed, std::string_view fuse, bool save) {
  const Sizes s = check_arguments(x, h0, c0, weights, dropout, seed, fuse);
  const Forward out = with_kernels(s.dtype, [&](const auto& kernels) {
    return run_forward(kernels, s, fused_lstm::converted(x, s.dtype),
                       fused_lstm::converted(h0, s.dtype), fused_lstm::converted(c0, s.dtype),
                       converted(weights, s.dtype), dropout_of(dropout, seed), save);
  });
  const auto as_given = [&](const Tensor& tensor) { return to_dtype(tensor, s.given); };
  const auto none = [&](at::ScalarType dtype) { return at::empty({0}, x.options().dtype(dtype)); };
  return {as_given(out.y),
          as_given(out.h_n),
          as_given(out.c_n),
          save ? as_given(out.h) : none(s.given),
          save ? out.c : none(s.dtype),
          save ? as_given(out.gates) : none(s.given)};
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> lstm_backward(
    const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
    const Tensor& x, const Tensor& h0, const Tensor& c0, at::TensorList weights, double dropout,
    const OptionalTensor& seed, std::string_view fuse, const Tensor& y, const Tensor& h,
    const Tensor& c, const Tensor& gates, bool needs_dx) {
  const Sizes s = check_arguments(x, h0, c0, weights, dropout, seed, fuse);
  const std::vector<int64_t> shape = {s.steps, s.batch, s.hidden};
  check(y, "y", shape, s.given);
  check(h, "h", {s.layers - 1, s.steps, s.batch, s.hidden}, s.given);
  check(c, "c", {s.layers, s.steps, s.batch, s.hidden}, s.dtype);
  check(gates, "gates", {s.layers, s.steps, s.batch, 4 * s.hidden}, s.given);
  const auto to = [&](const Tensor& tensor) { return fused_lstm::converted(tensor, s.dtype); };
  Forward saved{to(y), Tensor(), Tensor(), to(h), to(c), to(gates)};
  Backward out = with_kernels(s.dtype, [&](const auto& kernels) {
    return run_backward(
        kernels, s, optional_converted(dy, "dy", shape, s),
        optional_converted(dh_n, "dh_n", h0.sizes(), s),
        optional_converted(dc_n, "dc_n", c0.sizes(), s), to(x), to(h0), to(c0),
        converted(weights, s.dtype), dropout_of(dropout, seed), saved, needs_dx);
  });
  const auto as_given = [&](const Tensor& tensor) { return to_dtype(tensor, s.given); };
  for (Tensor& gradient : out.dweights) gradient = as_given(gradient);
  return {as_given(out.dx), as_given(out.dh0), as_given(out.dc0), out.dweights};
}

}  // namespace fused_lstm
