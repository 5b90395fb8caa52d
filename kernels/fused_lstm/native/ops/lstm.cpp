// fuse="steps" (layer after layer) and fuse="layers" (all of them): the operators `lstm` and
// `lstm_backward`, checked. Schemas: kernels/fused_lstm/schemas.txt.
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <type_traits>
#include <utility>

#include "isa/prepared.h"
#include "ops/call.h"

namespace fused_lstm {
namespace {

Tensor optional_converted(const OptionalTensor& tensor, const char* name, Dimensions shape,
                          const Call& call) {
  if (!tensor || !tensor->defined()) return Tensor();
  check(*tensor, name, shape, call.given);
  return converted(*tensor, sum_dtype(call.dtype));
}

// Adds two tensors of one dtype and shape, either of which may be undefined.
Tensor sum_of(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() ? a : b;
  const Tensor sum = fresh_like(a);
  const auto add = [&](const auto* left) {
    using E = std::remove_const_t<std::remove_pointer_t<decltype(left)>>;
    std::transform(left, left + a.numel(), data_of<E>(b), data_of<E>(sum), std::plus<E>());
  };
  a.dtype() == Dtype::Double ? add(data_of<double>(a)) : add(data_of<float>(a));
  return sum;
}

// A result that is not wanted, the RESULT-th of its call: at every call the same tensor of no elements,
// since to make one takes as long as a small step. (Not where autograd gives it a history.)
template <int RESULT>
Tensor unwanted(Dtype dtype) {
  static const auto* const all = new std::vector<Tensor>{  // never destroyed: LibTorch may be gone
      empty(nothing, Dtype::Float), empty(nothing, Dtype::Double), empty(nothing, Dtype::BFloat16),
      empty(nothing, Dtype::Half)};
  return *std::find_if(all->begin(), all->end() - 1,
                       [&](const Tensor& tensor) { return tensor.dtype() == dtype; });
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm(
    Tensor x, Tensor h0, Tensor c0, Tensors weights, double dropout, const OptionalTensor& seed,
    const std::string& fuse, bool save, int64_t directions, const OptionalTensor& batch_sizes,
    const OptionalTensor& not_reset, const std::string& cell, const std::vector<double>& rates,
    const PrecisionOverride& precision) {
  const Call call = checked({
      .kind = Arguments::layers, .pass = Pass::forward, .x = std::move(x), .h0 = std::move(h0),
      .c0 = std::move(c0), .weights = std::move(weights), .batch_sizes = batch_sizes,
      .not_reset = not_reset, .cell = cell, .directions = directions, .fuse = fuse,
      .dropout = dropout, .seed = seed, .rates = rates, .precision = precision});
  Forward out = run_forward(call, save);
  const bool keeps = call.sizes.cell.saved > 0, keeps_c = keeps || call.sizes.norm;
  const auto as_given = [&](Tensor& tensor) { return to_dtype(std::move(tensor), call.given); };
  const Dtype given = call.given, sums = sum_dtype(call.dtype);
  Tensor y = as_given(out.y), h_n = as_given(out.h_n), c_n = as_given(out.c_n);
  if (!save) {
    return {std::move(y),       std::move(h_n),    std::move(c_n),
            unwanted<0>(given), unwanted<1>(sums), unwanted<2>(given)};
  }
  return {std::move(y), std::move(h_n), std::move(c_n), as_given(out.h),
          keeps_c ? std::move(out.c) : fresh(nothing, sums),
          keeps ? to_dtype(std::move(out.gates), saved_dtype(call)) : fresh(nothing, given)};
}

std::tuple<Tensor, Tensor, Tensor, Tensors> lstm_backward(
    const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n, Tensor x,
    Tensor h0, Tensor c0, Tensors weights, double dropout, const OptionalTensor& seed,
    const std::string& fuse, Tensor y, Tensor h, Tensor c, Tensor gates, bool needs_dx,
    int64_t directions, const OptionalTensor& batch_sizes, const OptionalTensor& not_reset,
    const std::string& cell, const std::vector<double>& rates, const PrecisionOverride& precision,
    int64_t samples, const OptionalTensor& dh, const OptionalTensor& dc) {
  const Call call = checked({
      .kind = Arguments::layers, .pass = Pass::backward, .x = std::move(x), .h0 = std::move(h0),
      .c0 = std::move(c0), .weights = std::move(weights), .batch_sizes = batch_sizes,
      .not_reset = not_reset, .cell = cell, .directions = directions, .fuse = fuse,
      .dropout = dropout, .seed = seed, .rates = rates, .precision = precision, .samples = samples});
  const Sizes& s = call.sizes;
  const long lanes = s.layers * s.directions, width = s.directions * s.outputs;
  check(y, "y", call.shape(width), call.given);
  check(h, "h", call.shape(s.layers - 1, width), call.given);
  if (s.planes() > 0) {
    check(c, "c", call.shape(s.planes() * lanes, s.state_columns()), sum_dtype(call.dtype));
  }
  if (s.cell.saved > 0) {
    check(gates, "gates", call.shape(lanes, s.saved_columns()), saved_dtype(call));
  }
  const auto to = [&](Tensor& tensor) { return converted(std::move(tensor), call.dtype); };
  const Forward saved{to(y), Tensor(), Tensor(), to(h), c.contiguous(), to(gates)};
  Forward by{optional_converted(dy, "dy", saved.y.sizes(), call),
             optional_converted(dh_n, "dh_n", call.h0.sizes(), call),
             optional_converted(dc_n, "dc_n", call.c0.sizes(), call),
             optional_converted(dh, "dh", h.sizes(), call), Tensor(), Tensor()};
  if (dc && s.cell.saved > 0) {
    check(*dc, "dc", c.sizes(), sum_dtype(call.dtype));
    by.c = dc->contiguous();
  }
  if (s.cell.saved == 0) by.h_n = sum_of(by.h_n, by.c_n);  // both are gradients by h
  Backward out = run_backward(call, by, saved, needs_dx);
  const auto as_given = [&](Tensor& tensor) { return to_dtype(std::move(tensor), call.given); };
  for (Tensor& gradient : out.dweights) gradient = as_given(gradient);
  return {as_given(out.dx), as_given(out.dh0), as_given(out.dc0), std::move(out.dweights)};
}

std::tuple<Tensor, Tensor, Tensor> prepared_lstm(
    Tensor x, Tensor h0, Tensor c0, Tensors weights, int64_t directions,
    const OptionalTensor& batch_sizes, const OptionalTensor& not_reset, const std::string& cell,
    bool weight_only) {
  const Call call = checked({
      .kind = Arguments::prepared, .pass = Pass::forward, .x = std::move(x), .h0 = std::move(h0),
      .c0 = std::move(c0), .weights = std::move(weights), .batch_sizes = batch_sizes,
      .not_reset = not_reset, .cell = cell, .directions = directions, .weight_only = weight_only});
  Forward out = run_forward(call, false);
  const auto as_given = [&](Tensor& tensor) { return to_dtype(std::move(tensor), call.given); };
  return {as_given(out.y), as_given(out.h_n), as_given(out.c_n)};
}

}  // namespace fused_lstm
