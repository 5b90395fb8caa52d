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

// How many of a lane's weights are not torch.nn's. Where it normalizes, an LSTM's c has a gain too, and
// a bias where the gates have one.
long weights_added(const NamedCell& cell, long per_lane) {
  const bool peephole = cell.options.peephole;
  const InnerProducts* const inner = cell.cell->shape.inner;
  if (!cell.options.norm) return peephole + (inner ? inner->matrices : 0);
  if (!cell.cell->shape.is_lstm) return peephole + 2;
  const bool bias = per_lane - peephole > 6;  // 5 or 6 without it, 8 or 9 with it
  return peephole + (bias ? 4 : 3);
}

// per_lane: nn.LSTM's, and all.
void check_weights(const Tensors& weights, const Sizes& s, const CellOptions& cell, long plain,
                   long per_lane, Dtype dtype) {
  const long of_x = s.cell.x_gates() * s.hidden;
  const long of_h = s.cell.h_gates() * s.hidden;
  const long products = s.cell.inner ? s.cell.inner->matrices : 0;
  for (long i = 0; i < static_cast<long>(weights.size()); ++i) {
    const long k = i % per_lane, layer = i / per_lane / s.directions;
    const long inputs = layer == 0 ? s.inputs : s.directions * s.outputs;
    const auto is = [&](Dimensions shape) { check(weights[i], "weights", shape, dtype, i); };
    if (k == 0) is({of_x, inputs});
    if (k == 1) is({of_h, s.outputs});
    if (const long n = k - (per_lane - products); n >= 0) {
      const long at = s.cell.inner->product(n);
      is({s.cell.inner->columns[at] * s.inner.units[at], s.inner.depth[at]});
      continue;
    }
    const long n = k - plain + !cell.peephole;  // w_ch, two gains of the gates, what c has
    if (n >= 0 && k >= plain) {
      const long peepholes = vectors_of(s.cell) * s.column_units();
      is({n == 0 ? peepholes : n == 1 ? of_x : n == 2 ? of_h : s.hidden});
    } else if (k > 1 && s.projected && k == plain - 1) {
      is({s.outputs, s.hidden});
    } else if (k > 1) {
      is({k == 2 ? of_x : of_h});
    }
  }
}

// The columns of x behind those that weight_ih multiplies: a number, or one of each unit, for every input
// of the cell.
long own_columns(const CellShape& cell, const Tensor& x, const Tensors& weights) {
  if (cell.inputs == 0 || x.dim() == 0 || weights.empty() || weights[0].dim() != 2) return 0;
  return std::max<long>(x.size(x.dim() - 1) - weights[0].size(1), 0);
}

// Fills in x: its rows divided into what is multiplied and the cell's inputs, where it has some.
void set_x(Call& call, Tensor x, long own) {
  const Sizes& s = call.sizes;
  if (s.cell.inputs == 0) {
    call.x = converted(std::move(x), call.dtype);
    return;
  }
  CHECK_VALUE(own == s.cell.inputs || own == s.cell.inputs * s.state_units(), "x: got ", own,
              " columns behind weight_ih's; expected ", s.cell.inputs, " or ",
              s.cell.inputs * s.state_units(), ", of the cell's inputs");
  const Tensor all = converted(x, call.dtype);
  const long rows = s.rows, width = s.inputs + own, bytes = bytes_of(call.dtype);
  call.x = fresh(call.shape(s.inputs), call.dtype);
  call.own = fresh(Dimensions({rows, own}), call.dtype);
  const char* const from = static_cast<const char*>(all.data());
  char *const x_to = static_cast<char*>(call.x.data()), *const own_to = static_cast<char*>(call.own.data());
  for (long row = 0; row < rows; ++row) {
    const char* const of_row = from + row * width * bytes;
    std::copy_n(of_row, s.inputs * bytes, x_to + row * s.inputs * bytes);
    std::copy_n(of_row + s.inputs * bytes, own * bytes, own_to + row * own * bytes);
  }
}

// Returns how many units a width has, by its number in InnerProducts.
long size_of(const Sizes& s, long number) {
  return number == 0 ? s.inner.states : number == 1 ? s.hidden : s.inner.units[number - 2];
}

// Checks that values which meet in a step have as many units: kernels read as many of each.
void check_widths(const Sizes& s) {
  const InnerProducts& inner = *s.cell.inner;
  const auto is = [&](long units, long number, const char* of, long k) {
    CHECK_VALUE(units == size_of(s, number), "weights: got ", units, " units of ", of, " ", k,
                "; expected ", size_of(s, number));
  };
  is(s.hidden, inner.width_of_gates, "gate", 0);
  for (long k = 0; k < inner.count; ++k) {
    if (!inner.is_product(k)) continue;
    is(s.inner.units[k], inner.width[k], "what is made by product", k);
    is(s.inner.depth[k], inner.factor[k], "the factor of product", k);
  }
  is(s.inner.units[inner.count - 1], 0, "what is made by product", inner.count - 1);
  for (long k = 0; k < s.cell.inputs; ++k) is(s.inner.states, inner.width_of_input[k], "input", k);
}

// Fills in the sizes of products inside a step, and the units of gates, from the first lane's weights, of
// which it has `per_lane`. (With a projection gates have as many units as h before it.)
void set_inner_sizes(Sizes& s, const Tensors& weights, long per_lane) {
  const InnerProducts& inner = *s.cell.inner;
  for (long i = 0; i < 2; ++i) {
    CHECK_VALUE(weights[i].dim() == 2, "weights: got shape ", shown(weights[i]), " at ", i,
                "; expected [rows, columns]");
  }
  if (!s.projected) s.hidden = weights[0].size(0) / s.cell.x_gates();
  s.inner.states = s.projected ? s.hidden : s.outputs;
  s.inner.widest = std::max(s.hidden, s.inner.states);
  for (long n = 0; n < inner.matrices; ++n) {
    const long k = inner.product(n), at = per_lane - inner.matrices + n;
    const Tensor& weight = weights[at];
    CHECK_VALUE(weight.dim() == 2 && weight.size(0) % inner.columns[k] == 0,
                "weights: got shape ", shown(weight), " at ", at, "; expected ", inner.columns[k],
                " rows for each unit that the product makes");
    s.inner.units[k] = weight.size(0) / inner.columns[k];
    s.inner.depth[k] = weight.size(1);
    s.inner.widest = std::max({s.inner.widest, s.inner.units[k], s.inner.depth[k]});
  }
  for (long k = 0; k < inner.count; ++k) {
    if (inner.is_product(k)) continue;
    s.inner.units[k] = size_of(s, inner.width[k]);
    s.inner.depth[k] = size_of(s, inner.factor[k]);
    s.inner.share[k] = 1.0 / static_cast<double>(s.inner.depth[k]);
  }
  check_widths(s);
}

// Returns sizes except for those of packed rows: P from h0 [L * D, B, P], and H from c0 [L * D, B, S*H] of
// S states.
//
// own: the last columns of x, which are a cell's inputs.
Sizes sizes_of(const Tensor& x, const Tensor& h0, const Tensor& c0, long states, long weights,
               long added, int64_t told, bool packed, long own = 0) {
  CHECK_VALUE(told == 1 || told == 2 || told == -1, "directions: got ", told,
              "; expected 1, 2, or -1 for one that runs backwards");
  const int64_t directions = std::abs(told);
  CHECK_VALUE(x.dim() == (packed ? 2 : 3), "x: got shape ", shown(x), "; expected ",
              packed ? "[N, I] with batch_sizes" : "[T, B, I]");
  CHECK_VALUE(h0.dim() == 3 && h0.size(0) % directions == 0, "h0: got shape ", shown(h0),
              "; expected [L, B, H]", directions > 1 ? " of a layer's two lanes each" : "");
  CHECK_VALUE(c0.dim() == 3, "c0: got shape ", shown(c0), "; expected [L, B, H]");
  Sizes s{};
  const long lanes = h0.size(0);
  CHECK_VALUE(lanes > 0 && weights % lanes == 0 && weights >= (2 + added) * lanes &&
                  weights <= (5 + added) * lanes,
              "weights: got ", weights, " tensors; expected ", 2 + added, " to ", 5 + added,
              " for each of ", lanes, lanes > 1 ? " lanes" : " lane");
  const long per_lane = weights / lanes - added;
  s.projected = per_lane % 2 == 1;
  s.batch = h0.size(1);
  s.inputs = x.size(packed ? 1 : 2) - own;
  s.outputs = h0.size(2);
  s.hidden = s.projected ? c0.size(2) / states : s.outputs;
  s.layers = lanes / directions;
  s.directions = directions;
  return s;
}

// Returns where each step's rows begin, and at last their number.
std::vector<long> rows_before(const Tensor& x, const OptionalTensor& batch_sizes, long batch) {
  if (!batch_sizes) {
    CHECK_VALUE(x.size(0) > 0, "x: got no time steps (shape ", shown(x),
                "); expected one or more");
    std::vector<long> first(x.size(0) + 1);
    for (size_t t = 0; t < first.size(); ++t) first[t] = t * batch;
    return first;
  }
  std::vector<long> first = {0};
  CHECK_VALUE(batch_sizes->dim() == 1 && batch_sizes->size(0) > 0,
              "batch_sizes: got shape ", shown(*batch_sizes), "; expected [T]");
  check(*batch_sizes, "batch_sizes", batch_sizes->sizes(), Dtype::Long);
  const Tensor sizes = batch_sizes->contiguous();
  const int64_t* const of = data_of<int64_t>(sizes);
  for (long t = 0; t < sizes.size(0); ++t) {
    const int64_t most = t > 0 ? of[t - 1] : batch, least = t > 0 ? 0 : batch;
    CHECK_VALUE(of[t] >= least && of[t] <= most, "batch_sizes: got ", of[t], " at ", t,
                "; expected ", least, least < most ? " to " + std::to_string(most) : "");
    first.push_back(first.back() + of[t]);
  }
  CHECK_VALUE(x.size(0) >= first.back(), "x: got shape ", shown(x),
              "; expected a row for each of batch_sizes, ", first.back());
  return first;
}

}  // namespace

void set_rows(Call& call, const Tensor& x, const OptionalTensor& batch_sizes,
              const OptionalTensor& not_reset) {
  Sizes& s = call.sizes;
  call.first = rows_before(x, batch_sizes, s.batch);
  s.steps = static_cast<long>(call.first.size()) - 1;
  s.rows = call.packed ? x.size(0) : s.steps * s.batch;
  s.even = !not_reset && call.first.back() == s.steps * s.batch && call.first.back() == s.rows;
  if (!not_reset) return;
  const int64_t D = s.directions;
  const SmallShape lanes = call.packed ? SmallShape{{D, s.rows}, 2} : SmallShape{{D, s.steps, s.batch}, 3};
  const SmallShape heads = call.packed ? SmallShape{{s.rows}, 1} : SmallShape{{s.steps, s.batch}, 2};
  check(*not_reset, "not_reset", s.given ? heads : lanes, Dtype::Bool);
  call.not_reset = not_reset->contiguous();
}

void set_dtypes(Call& call, const Tensor& x, const char* name, Pass pass, bool wide,
                const PrecisionOverride& precision) {
  Sizes& s = call.sizes;
  wide = wide || !has_functions(*call.cell, FactorKind::bfloat16);
  call.given = x.dtype();
  s.narrow = call.given == Dtype::BFloat16;
  s.unit = s.narrow && !wide && has_unit(*call.isa);
  s.weight_bytes = bytes_of(call.given);
  const bool lying = pass != Pass::backward && is_short(s);
  call.dtype = wide || lying ? compute_dtype(x, name) : factor_dtype(x, name, *call.isa);
  call.weight_dtype = lying && s.narrow ? call.given : call.dtype;
  const int terms = terms_worth(terms_of(call.given, precision), pass, s.batch);
  const FactorKind of_terms = terms > 1 ? FactorKind::two_terms : FactorKind::one_term;
  call.terms = !lying && has_functions(*call.cell, of_terms) ? terms : 0;
}

namespace {

void check_samples(int64_t samples, const Call& call) {
  const long batch = call.sizes.batch;
  CHECK_VALUE(samples == 0 || (samples > 0 && batch % samples == 0), "samples: got ", samples,
              "; expected a divisor of the batch of ", batch);
  CHECK_VALUE(samples == 0 || samples == batch || !call.packed, "samples: got ", samples,
              "; expected ", batch, ", a row each, where rows are packed");
  CHECK_VALUE(samples == 0 || !(call.options.peephole || call.options.norm),
              "samples: got ", samples, "; expected 0 for a cell with weights of its own");
}

Call checked_call(Pass pass, Tensor x, Tensor h0, Tensor c0, Tensors weights, double dropout,
                  const OptionalTensor& seed, const std::string& fuse, int64_t directions,
                  const OptionalTensor& batch_sizes, const OptionalTensor& not_reset,
                  const std::string& cell, const std::vector<double>& rates,
                  const PrecisionOverride& precision, int64_t samples = 0) {
  check_fuse(fuse);
  Call call{};
  Sizes& s = call.sizes;
  call.packed = batch_sizes.has_value();
  call.isa = &current_isa();  // once: another thread may choose another
  const NamedCell named = cell_of(*call.isa, cell, rates, seed.has_value());
  call.options = named.options;
  call.cell = named.cell;
  const long lanes = h0.dim() > 0 ? h0.size(0) : 0;
  const long added = lanes ? weights_added(named, weights.size() / lanes) : 0;
  const long states = named.cell->shape.states, count = static_cast<long>(weights.size());
  const long own = own_columns(named.cell->shape, x, weights);
  s = sizes_of(x, h0, c0, states, count, added, directions, call.packed, own);
  call.reverse = directions < 0;
  s.cell = named.cell->shape;
  CHECK_VALUE(s.cell.is_lstm || s.cell.saves_h || !s.projected,
              "weights: got weight_hr; expected none, except for an LSTM, and a cell made for it");
  const Dtype given = x.dtype();
  call.together = fuse == "layers";
  const long all = static_cast<long>(weights.size()) / h0.size(0);
  const long products = s.cell.inner ? s.cell.inner->matrices : 0;
  call.per_lane = all - added;
  if (s.cell.inner) set_inner_sizes(s, weights, all);
  if (!call.packed) s.batch = x.size(1);
  check(h0, "h0", {lanes, s.batch, s.outputs}, given);
  check(c0, "c0", {lanes, s.batch, states * s.state_units()}, given);
  check_weights(weights, s, call.options, call.per_lane, all, given);
  set_rows(call, x, batch_sizes, not_reset);
  s.dropout = dropout > 0;
  s.norm = call.options.norm;
  check_samples(samples, call);
  s.samples = samples;
  set_dtypes(call, x, "x", pass, samples > 0, precision);
  CHECK_VALUE(dropout >= 0 && dropout <= 1, "dropout: got ", dropout,
              "; expected a number in [0, 1]");
  CHECK_VALUE(dropout == 0 || seed.has_value(), "seed: got None; expected [1] int64");
  if (seed) {
    const bool own = call.options.on && seed->numel() == 2;  // [2], where a call is part of another
    check(*seed, "seed", {own ? 2 : 1}, Dtype::Long);
    call.seed = seed->contiguous();
  }
  set_x(call, std::move(x), own);
  call.h0 = converted(std::move(h0), call.dtype);
  call.c0 = converted(std::move(c0), sum_dtype(call.dtype));
  call.weights.reserve(weights.size());
  for (long i = 0; i < static_cast<long>(weights.size()); ++i) {
    const bool inner = i % all >= all - products, plain = i % all < call.per_lane;
    Tensors& list = inner ? call.inner : plain ? call.weights : call.vectors;
    const Dtype own = inner || plain ? call.weight_dtype : sum_dtype(call.dtype);
    list.push_back(converted(std::move(weights[i]), own));
  }
  call.dropout = dropout_of(dropout, call.seed);
  return call;
}

// Gradients as the weights came: a lane has nn.LSTM's, then its cell's.
Tensors interleaved(const Call& call, const Backward& out) {
  Tensors result;
  const long lanes = call.h0.size(0), added = static_cast<long>(out.dvectors.size()) / lanes;
  const long products = static_cast<long>(out.dinner.size()) / lanes;
  for (long lane = 0; lane < lanes; ++lane) {
    const auto plain = out.dweights.begin() + lane * call.per_lane;
    result.insert(result.end(), plain, plain + call.per_lane);
    for (long k = 0; k < added; ++k) {
      result.push_back(to_dtype(out.dvectors[lane * added + k], call.given));
    }
    for (long k = 0; k < products; ++k) {
      result.push_back(to_dtype(out.dinner[lane * products + k], call.given));
    }
  }
  return result;
}

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

SmallShape Call::shape(long columns) const {
  return packed ? SmallShape{{sizes.rows, columns}, 2}
                : SmallShape{{sizes.steps, sizes.batch, columns}, 3};
}

SmallShape Call::shape(long count, long columns) const {
  return packed ? SmallShape{{count, sizes.rows, columns}, 3}
                : SmallShape{{count, sizes.steps, sizes.batch, columns}, 4};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm(
    Tensor x, Tensor h0, Tensor c0, Tensors weights, double dropout, const OptionalTensor& seed,
    const std::string& fuse, bool save, int64_t directions, const OptionalTensor& batch_sizes,
    const OptionalTensor& not_reset, const std::string& cell, const std::vector<double>& rates,
    const PrecisionOverride& precision) {
  const Call call = checked_call(Pass::forward, std::move(x), std::move(h0), std::move(c0),
                                 std::move(weights), dropout, seed, fuse, directions, batch_sizes,
                                 not_reset, cell, rates, precision);
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
          keeps ? as_given(out.gates) : fresh(nothing, given)};
}

std::tuple<Tensor, Tensor, Tensor, Tensors> lstm_backward(
    const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n, Tensor x,
    Tensor h0, Tensor c0, Tensors weights, double dropout, const OptionalTensor& seed,
    const std::string& fuse, Tensor y, Tensor h, Tensor c, Tensor gates, bool needs_dx,
    int64_t directions, const OptionalTensor& batch_sizes, const OptionalTensor& not_reset,
    const std::string& cell, const std::vector<double>& rates, const PrecisionOverride& precision,
    int64_t samples, const OptionalTensor& dh, const OptionalTensor& dc) {
  const Call call = checked_call(Pass::backward, std::move(x), std::move(h0), std::move(c0),
                                 std::move(weights), dropout, seed, fuse, directions, batch_sizes,
                                 not_reset, cell, rates, precision, samples);
  const Sizes& s = call.sizes;
  const long lanes = s.layers * s.directions, width = s.directions * s.outputs;
  check(y, "y", call.shape(width), call.given);
  check(h, "h", call.shape(s.layers - 1, width), call.given);
  if (s.planes() > 0) {
    check(c, "c", call.shape(s.planes() * lanes, s.state_columns()), sum_dtype(call.dtype));
  }
  if (s.cell.saved > 0) {
    check(gates, "gates", call.shape(lanes, s.saved_columns()), call.given);
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
  if (!out.dvectors.empty() || !out.dinner.empty()) out.dweights = interleaved(call, out);
  return {as_given(out.dx), as_given(out.dh0), as_given(out.dc0), std::move(out.dweights)};
}

std::tuple<Tensor, Tensor, Tensor> prepared_lstm(
    Tensor x, Tensor h0, Tensor c0, Tensors weights, int64_t directions,
    const OptionalTensor& batch_sizes, const OptionalTensor& not_reset, const std::string& cell,
    bool weight_only) {
  Call call{};
  Sizes& s = call.sizes;
  call.packed = batch_sizes.has_value();
  call.isa = &current_isa();
  const NamedCell named = cell_of(*call.isa, cell, {}, false);
  const CellShape& shape = named.cell->shape;
  const bool options = named.options.norm || (shape.is_lstm && named.options.peephole);
  CHECK_VALUE(!options && shape.fits_tiles(), "cell: got '", cell,
              "'; expected '', coupled, gru, an RNN's or a cell of your own of one to four gates of x and"
              " as many of h");
  const long count = static_cast<long>(weights.size()), lanes = h0.dim() > 0 ? h0.size(0) : 0;
  const long added = lanes ? weights_added(named, count / lanes) : 0;
  const long own = h0.dim() == 3 ? shape.inputs * h0.size(2) : 0;  // one number of each unit
  s = sizes_of(x, h0, c0, shape.states, count, added, directions, call.packed, own);
  call.reverse = directions < 0;
  call.cell = named.cell;
  call.options = named.options;
  s.cell = shape;
  CHECK_VALUE(s.inputs > 0, "x: got shape ", shown(x), "; expected ", own,
              " columns of the cell's inputs behind others");
  CHECK_VALUE(s.cell.is_lstm || !s.projected,
              "weights: got weight_hr; expected none, except for an LSTM");
  call.given = x.dtype();
  call.dtype = compute_dtype(x, "x");
  CHECK_VALUE(call.dtype == Dtype::Float, "x: got dtype ", call.given,
              "; expected float32, bfloat16 or float16");
  const long all = count / lanes;
  call.per_lane = all - added;
  const long products = s.cell.inner ? s.cell.inner->matrices : 0;
  s.inner.states = s.inner.widest = s.hidden;
  std::fill_n(s.inner.units, InnerProducts::most, s.hidden);
  std::fill_n(s.inner.depth, InnerProducts::most, s.hidden);
  std::fill_n(s.inner.share, InnerProducts::most, 1.0 / static_cast<double>(s.hidden));
  if (!call.packed) s.batch = x.size(1);
  check(h0, "h0", {lanes, s.batch, s.outputs}, call.given);
  check(c0, "c0", {lanes, s.batch, s.cell.states * s.hidden}, call.given);
  const Dtype of = weights[0].dtype();
  CHECK_VALUE(of == Dtype::Float || of == Dtype::BFloat16 || of == Dtype::Char,
              "weights: got dtype ", of, "; expected float32, bfloat16 or int8");
  CHECK_VALUE(of == Dtype::Char || !weight_only, "weights: got dtype ", of,
              " and weight_only; expected int8");
  call.prepared = of == Dtype::Float ? Prepared::float32
                  : of == Dtype::BFloat16 ? Prepared::bfloat16
                  : weight_only ? Prepared::int8_weights
                                : Prepared::int8;
  const long of_x = s.cell.x_gates(), of_h = s.cell.h_gates();
  for (long i = 0; i < count; ++i) {
    const long k = i % all, product = k - (all - products);
    const long inputs = i / all < s.directions ? s.inputs : s.directions * s.outputs;
    const bool projection = s.projected && k == call.per_lane - 1;
    if (k < 2 || projection || product >= 0) {
      const WeightShape matrix = product >= 0 ? WeightShape{s.cell.inner->columns[s.cell.inner->product(product)], s.hidden, s.hidden}
                                 : projection ? WeightShape{1, s.outputs, s.hidden}
                                 : k == 0     ? WeightShape{of_x, s.hidden, inputs}
                                              : WeightShape{of_h, s.hidden, s.outputs};
      check(weights[i], "weights", {prepared::bytes_of(call.prepared, matrix) / bytes_of(of)}, of, i);
    } else {
      const long vectors = k >= call.per_lane ? s.cell.weights : k == 2 ? of_x : of_h;
      check(weights[i], "weights", {vectors * s.hidden}, Dtype::Float, i);
    }
    Tensors& list = product >= 0 ? call.inner : k < call.per_lane ? call.weights : call.vectors;
    list.push_back(weights[i].contiguous());
  }
  set_rows(call, x, batch_sizes, not_reset);
  s.prepared = true;
  s.weight_bytes = bytes_of(of);
  set_x(call, std::move(x), own);
  call.h0 = converted(std::move(h0), call.dtype);
  call.c0 = converted(std::move(c0), call.dtype);
  Forward out = run_forward(call, false);
  const auto as_given = [&](Tensor& tensor) { return to_dtype(std::move(tensor), call.given); };
  return {as_given(out.y), as_given(out.h_n), as_given(out.c_n)};
}

}  // namespace fused_lstm
