// Checks what an operator is told, and makes a Call of it.
#include "ops/call.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "isa/prepared.h"
#include "ops/heads.h"

namespace fused_lstm {

// --- a lane's weights ---

SmallShape Slot::dimensions() const {
  const int64_t rows = shape.gates * shape.units;
  return is_matrix() ? SmallShape{{rows, shape.depth}, 2} : SmallShape{{rows}, 1};
}

Slots slots_of(const Sizes& s, const CellOptions& cell, long layer) {
  Slots slots;
  const auto add = [&](bool there, Weight kind, WeightShape shape) {
    if (!there) return;
    long& first = slots.first[static_cast<long>(kind)];
    if (first == Slots::none) first = slots.count;
    slots.list[slots.count++] = {kind, shape};
  };
  const long of_x = s.cell.x_gates(), of_h = s.cell.h_gates(), H = s.hidden;
  const bool lstm = cell.norm && s.cell.is_lstm;
  add(true, Weight::w_ih, {of_x, H, layer == 0 ? s.inputs : s.width()});
  add(true, Weight::w_hh, {of_h, H, s.outputs});
  add(s.bias, Weight::b_ih, {of_x, H, 0});
  add(s.bias, Weight::b_hh, {of_h, H, 0});
  add(s.projected, Weight::w_hr, {1, s.outputs, H});
  add(cell.peephole, Weight::w_ch, {vectors_of(s.cell), s.column_units(), 0});
  add(cell.norm, Weight::gain_ih, {of_x, H, 0});
  add(cell.norm, Weight::gain_hh, {of_h, H, 0});
  add(lstm, Weight::gain_c, {1, H, 0});
  add(lstm && s.bias, Weight::bias_c, {1, H, 0});
  for (long k = 0; k < s.cell.phases_inside(); ++k) {
    if (!s.cell.inner->is_product(k)) continue;
    add(true, Weight::inner, {s.cell.inner->columns[k], s.inner.units[k], s.inner.depth[k]});
  }
  return slots;
}

namespace {

// --- the cell and sizes ---

// The columns of x behind those that weight_ih multiplies: a number, or one of each unit, for every input
// of the cell.
long own_columns(const CellShape& cell, const Tensor& x, const Tensors& weights) {
  if (cell.inputs == 0 || x.dim() == 0 || weights.empty() || weights[0].dim() != 2) return 0;
  return std::max<long>(x.size(x.dim() - 1) - weights[0].size(1), 0);
}

// Fills in the cell, its options, and how many columns of x are the cell's inputs.
void set_cell(Call& call, const Arguments& given) {
  if (given.kind == Arguments::heads) {
    call.cell = &lane_cell_of(*call.isa, given.cell);
    call.sizes.cell = call.cell->shape;
    return;
  }
  const NamedCell named = cell_of(*call.isa, given.cell, given.rates, given.seed.has_value());
  const CellShape& shape = named.cell->shape;
  call.cell = named.cell;
  call.options = named.options;
  call.sizes.cell = shape;
  if (given.kind == Arguments::layers) {
    call.own_columns = own_columns(shape, given.x, given.weights);
    return;
  }
  const bool options = named.options.norm || (shape.is_lstm && named.options.peephole);
  CHECK_VALUE(!options && shape.fits_tiles(), "cell: got '", given.cell,
              "'; expected '', coupled, gru, an RNN's or a cell of your own of one to four gates of x and"
              " as many of h");
  const long own = given.h0.dim() == 3 ? shape.inputs * given.h0.size(2) : 0;  // one number of each unit
  CHECK_VALUE(given.x.dim() == 0 || given.x.size(given.x.dim() - 1) > own, "x: got shape ",
              shown(given.x), "; expected ", own, " columns of the cell's inputs behind others");
  call.own_columns = own;
}

// Returns how many units a width has, by its number in InnerProducts.
long size_of(const Sizes& s, long number) {
  if (number < 0) return s.inner.depth[-1 - number];
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
  for (long k = 0; k < inner.early; ++k) {
    CHECK_VALUE(s.inner.early[k] <= s.inner.states, "weights: got ", s.inner.early[k],
                " units of a state; expected at most ", s.inner.states, ", h's");
  }
}

// Fills in the sizes of products inside a step, and the units of gates, from the first lane's weights.
// (With a projection gates have as many units as h before it.)
void set_inner_sizes(Sizes& s, const Tensors& weights, long first) {
  const InnerProducts& inner = *s.cell.inner;
  for (long i = 0; i < 2; ++i) {
    CHECK_VALUE(weights[i].dim() == 2, "weights: got shape ", shown(weights[i]), " at ", i,
                "; expected [rows, columns]");
  }
  const bool of_x = s.cell.x_gates() > 0;  // else rows of w_hh tell, or there is no gate
  const long gates = of_x ? s.cell.x_gates() : s.cell.h_gates();
  if (!s.projected && gates > 0) s.hidden = weights[of_x ? 0 : 1].size(0) / gates;
  s.inner.states = s.projected ? s.hidden : s.outputs;
  s.inner.widest = std::max(s.hidden, s.inner.states);
  for (long k = 0; k < inner.count; ++k) {
    if (!inner.is_product(k)) continue;
    const long at = first + inner.number[k];
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
  for (long k = 0; k < s.cell.inputs; ++k) {
    s.inner.input_at[k] = s.inner.inputs;
    s.inner.inputs += size_of(s, inner.width_of_input[k]);
  }
  for (long k = 0; k < inner.early; ++k) s.inner.early[k] = size_of(s, inner.width_of_early[k]);
  check_widths(s);
}

// Of weights that were packed before the call, each product has H units and as many factors.
void set_inner_sizes_of_prepared(Sizes& s) {
  const long phases = s.cell.phases_inside();
  s.inner.states = s.inner.widest = s.hidden;
  std::fill_n(s.inner.units, phases, s.hidden);
  std::fill_n(s.inner.depth, phases, s.hidden);
  std::fill_n(s.inner.share, phases, 1.0 / static_cast<double>(s.hidden));
  std::fill_n(s.inner.early, InnerProducts::most_early, s.hidden);
  for (long k = 0; k < s.cell.inputs; ++k) s.inner.input_at[k] = k * s.hidden;
  s.inner.inputs = s.cell.inputs * s.hidden;
}

// Tells bias and projection from the number of a lane's weights.
void set_form(Call& call, long lanes, long count) {
  Sizes& s = call.sizes;
  for (const bool projected : {false, true}) {
    for (const bool bias : {true, false}) {
      s.bias = bias;
      s.projected = projected;
      call.slots = slots_of(s, call.options, 0);
      if (lanes > 0 && call.slots.count * lanes == count) return;
    }
  }
  CHECK_VALUE(false, "weights: got ", count, " tensors; expected ", call.slots.count - 1, " to ",
              call.slots.count + 2, " for each of ", lanes, lanes == 1 ? " lane" : " lanes");
}

// Fills in sizes except for those of packed rows: P from h0 [L * D, B, P], and H from c0 [L * D, B, S*H] of
// S states.
void set_sizes(Call& call, const Arguments& given) {
  const Tensor &x = given.x, &h0 = given.h0, &c0 = given.c0;
  const int64_t told = given.directions, directions = std::abs(told);
  CHECK_VALUE(told == 1 || told == 2 || told == -1, "directions: got ", told,
              "; expected 1, 2, or -1 for one that runs backwards");
  CHECK_VALUE(x.dim() == (call.packed ? 2 : 3), "x: got shape ", shown(x), "; expected ",
              call.packed ? "[N, I] with batch_sizes" : "[T, B, I]");
  CHECK_VALUE(h0.dim() == 3 && h0.size(0) % directions == 0, "h0: got shape ", shown(h0),
              "; expected [L, B, H]", directions > 1 ? " of a layer's two lanes each" : "");
  CHECK_VALUE(c0.dim() == 3, "c0: got shape ", shown(c0), "; expected [L, B, H]");
  Sizes& s = call.sizes;
  s.layers = h0.size(0) / directions;
  s.directions = directions;
  set_form(call, h0.size(0), static_cast<long>(given.weights.size()));
  CHECK_VALUE(s.cell.is_lstm || (s.cell.saves_h && given.kind == Arguments::layers) || !s.projected,
              "weights: got weight_hr; expected none, except for an LSTM",
              given.kind == Arguments::layers ? ", and a cell made for it" : "");
  s.batch = call.packed ? h0.size(1) : x.size(1);
  s.outputs = h0.size(2);
  s.hidden = s.projected ? c0.size(2) / s.cell.states : s.outputs;
  s.inputs = x.size(x.dim() - 1) - call.own_columns;
  if (s.cell.inner && given.kind == Arguments::layers) {
    set_inner_sizes(s, given.weights, call.slots.of(Weight::inner));
  } else if (s.cell.inner) {
    set_inner_sizes_of_prepared(s);
  }
  call.slots = slots_of(s, call.options, 0);
}

// The same of heads, from weight_hh [N, G*K, K].
void set_sizes_of_heads(Call& call, const Arguments& given) {
  const Tensor &weight = given.weights[0], &rows = given.x;
  Sizes& s = call.sizes;
  const long gates = s.cell.h_gates();
  CHECK_VALUE(weight.dim() == 3 && weight.numel() > 0 && weight.size(1) == gates * weight.size(2),
              "weight_hh: got shape ", shown(weight), "; expected [N, ", gates,
              "K, K], N and K not 0");
  CHECK_VALUE(rows.dim() == (call.packed ? 2 : 3), given.name_of_x(), ": got shape ", shown(rows),
              "; expected ", call.packed ? "[N, G*H] with batch_sizes" : "[T, B, G*H]");
  CHECK_VALUE(given.h0.dim() == 2, "h0: got shape ", shown(given.h0), "; expected [B, H]");
  s.given = true;
  s.layers = s.directions = 1;
  s.heads = weight.size(0);
  s.hidden = s.outputs = weight.size(2);
  s.batch = given.h0.size(0);
}

// --- rows ---

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

// Fills in the rows of each step, the sizes that are of steps and rows, and `not_reset`. That of heads has
// one direction, and no dimension of it.
void set_rows(Call& call, const Arguments& given) {
  Sizes& s = call.sizes;
  call.first = rows_before(given.x, given.batch_sizes, s.batch);
  s.steps = static_cast<long>(call.first.size()) - 1;
  s.rows = call.packed ? given.x.size(0) : s.steps * s.batch;
  s.resets = given.not_reset.has_value();
  s.even = !given.not_reset && call.first.back() == s.steps * s.batch && call.first.back() == s.rows;
  if (!given.not_reset) return;
  const int64_t D = s.directions;
  const SmallShape lanes = call.packed ? SmallShape{{D, s.rows}, 2} : SmallShape{{D, s.steps, s.batch}, 3};
  const SmallShape heads = call.packed ? SmallShape{{s.rows}, 1} : SmallShape{{s.steps, s.batch}, 2};
  check(*given.not_reset, "not_reset", s.given ? heads : lanes, Dtype::Bool);
  call.not_reset = given.not_reset->contiguous();
}

// --- states, weights, masks ---

void check_states(const Call& call, const Arguments& given) {
  const Sizes& s = call.sizes;
  if (s.given) {
    check(given.h0, "h0", {s.batch, s.width()}, call.given);
    check(given.c0, "c0", {s.batch, s.cell.states * s.width()}, call.given);
    return;
  }
  check(given.h0, "h0", {s.lanes(), s.batch, s.outputs}, call.given);
  check(given.c0, "c0", {s.lanes(), s.batch, s.cell.states * s.state_units()}, call.given);
}

// Checks the weights of layers. Prepared matrices are so many bytes, or lie gate by gate; vectors beside them
// are float32.
void check_weights(const Call& call, const Arguments& given) {
  const Sizes& s = call.sizes;
  const bool prepared = given.kind == Arguments::prepared;
  const Dtype dtype = prepared ? given.weights[0].dtype() : call.given;
  long at = 0;
  for (long lane = 0; lane < s.lanes(); ++lane) {
    const Slots slots = slots_of(s, call.options, lane / s.directions);
    for (long k = 0; k < slots.count; ++k, ++at) {
      const Slot& slot = slots.list[k];
      if (!prepared) {
        check(given.weights[at], "weights", slot.dimensions(), dtype, at);
      } else if (slot.is_matrix()) {
        const long size = prepared::bytes_of(call.prepared, slot.shape) / bytes_of(dtype);
        if (call.apart) {
          const long gates = prepared::blocks_of(slot.shape.units) * slot.shape.gates;
          check(given.weights[at], "weights", {gates, size / gates}, dtype, at);
        } else {
          check(given.weights[at], "weights", {size}, dtype, at);
        }
      } else {
        check(given.weights[at], "weights", slot.dimensions(), Dtype::Float, at);
      }
    }
  }
}

void check_samples(int64_t samples, const Call& call) {
  const long batch = call.sizes.batch;
  CHECK_VALUE(samples == 0 || (samples > 0 && batch % samples == 0), "samples: got ", samples,
              "; expected a divisor of the batch of ", batch);
  CHECK_VALUE(samples == 0 || samples == batch || !call.packed, "samples: got ", samples,
              "; expected ", batch, ", a row each, where rows are packed");
  const bool own = call.options.peephole || call.options.norm;
  const InnerProducts* const inner = call.sizes.cell.inner;
  CHECK_VALUE(samples == 0 || !(own || (inner && inner->matrices > 0)), "samples: got ", samples,
              "; expected 0 for a cell with weights of its own");
}

// Fills in what draws masks between layers.
void set_dropout(Call& call, const Arguments& given) {
  CHECK_VALUE(given.dropout >= 0 && given.dropout <= 1, "dropout: got ", given.dropout,
              "; expected a number in [0, 1]");
  CHECK_VALUE(given.dropout == 0 || given.seed.has_value(), "seed: got None; expected [1] int64");
  if (given.seed) {
    const bool part = call.options.on && given.seed->numel() == 2;  // [2], where a call is part of another
    check(*given.seed, "seed", {part ? 2 : 1}, Dtype::Long);
    call.seed = given.seed->contiguous();
  }
  call.dropout = dropout_of(given.dropout, call.seed);
}

// --- dtypes ---

// Fills in the dtypes and the terms of a pass. wide: factors of products may not be bfloat16.
void set_dtypes(Call& call, const Arguments& given, bool wide) {
  Sizes& s = call.sizes;
  const char* const name = given.name_of_x();
  wide = wide || compares(s) || !has_functions(*call.cell, FactorKind::bfloat16);
  s.narrow = call.given == Dtype::BFloat16;
  s.unit = s.narrow && !wide && has_unit(*call.isa);
  s.weight_bytes = bytes_of(call.given);
  const bool lying = given.pass != Pass::backward && is_short(s);
  call.dtype = wide || lying ? compute_dtype(given.x, name) : factor_dtype(given.x, name, *call.isa);
  call.weight_dtype = lying && s.narrow ? call.given : call.dtype;
  const int terms = terms_worth(terms_of(call.given, given.precision), given.pass, s.batch);
  const FactorKind of_terms = terms > 1 ? FactorKind::two_terms : FactorKind::one_term;
  call.terms = !lying && has_functions(*call.cell, of_terms) ? terms : 0;
}

// The same where weights are prepared.
void set_prepared_dtypes(Call& call, const Arguments& given) {
  call.dtype = compute_dtype(given.x, "x");
  CHECK_VALUE(call.dtype == Dtype::Float, "x: got dtype ", call.given,
              "; expected float32, bfloat16 or float16");
  const Dtype of = given.weights[0].dtype();
  CHECK_VALUE(of == Dtype::Float || of == Dtype::BFloat16 || of == Dtype::Char,
              "weights: got dtype ", of, "; expected float32, bfloat16 or int8");
  CHECK_VALUE(of == Dtype::Char || !given.weight_only, "weights: got dtype ", of,
              " and weight_only; expected int8");
  call.prepared = of == Dtype::Float      ? Prepared::float32
                  : of == Dtype::BFloat16 ? Prepared::bfloat16
                  : given.weight_only     ? Prepared::int8_weights
                                          : Prepared::int8;
  call.apart = of == Dtype::Float && given.weights[0].sizes().size() == 2;
  call.sizes.prepared = true;
  call.sizes.unit = of == Dtype::BFloat16 && call.isa->for_bf16_rows.run;
  call.sizes.weight_bytes = bytes_of(of);
}

// --- the arguments as the kernels read them ---

// Fills in x, and the cell's inputs, where it has some: what is multiplied lies by itself.
void set_x(Call& call, Tensor x) {
  const Sizes& s = call.sizes;
  const long own = call.own_columns;
  if (s.cell.inputs == 0) {
    call.x = converted(std::move(x), call.dtype);
    return;
  }
  CHECK_VALUE(own == s.cell.inputs || own == s.input_columns(), "x: got ", own,
              " columns behind weight_ih's; expected ", s.cell.inputs, " or ", s.input_columns(),
              ", of the cell's inputs");
  call.own = converted(x, call.dtype);
  call.x = fresh(call.shape(s.inputs), call.dtype);
  const long width = (s.inputs + own) * bytes_of(call.dtype), of_x = s.inputs * bytes_of(call.dtype);
  const char* const from = static_cast<const char*>(call.own.data());
  char* const to = static_cast<char*>(call.x.data());
  for (long row = 0; row < s.rows; ++row) std::copy_n(from + row * width, of_x, to + row * of_x);
}

void convert(Call& call, Arguments& given) {
  set_x(call, std::move(given.x));
  call.h0 = converted(std::move(given.h0), call.dtype);
  call.c0 = converted(std::move(given.c0), sum_dtype(call.dtype));
  call.weights = std::move(given.weights);
  if (given.kind == Arguments::prepared) {
    for (Tensor& weight : call.weights) {
      if (!weight.is_contiguous()) weight = weight.contiguous();
    }
    return;
  }
  for (size_t i = 0; i < call.weights.size(); ++i) {
    const bool of_cell = call.slots.list[i % call.slots.count].is_of_cell();
    const Dtype dtype = of_cell ? sum_dtype(call.dtype) : call.weight_dtype;
    call.weights[i] = converted(std::move(call.weights[i]), dtype);
  }
}

void convert_heads(Call& call, const Arguments& given) {
  const Sizes& s = call.sizes;
  if (given.pass == Pass::forward) call.x = converted(given.x, call.dtype);
  call.h0 = heads_first(s, given.h0, s.batch, 1, call.dtype);
  call.c0 = heads_first(s, given.c0, s.batch, s.cell.states, sum_dtype(call.dtype));
  call.weights = {weight_of_heads(given.weights[0], call.weight_dtype)};
  if (!given.bias_m) return;
  check(*given.bias_m, "bias_m", {s.cell.of_h * s.width()}, call.given);
  if (s.cell.of_h > 0) call.b_m = heads_first(s, *given.bias_m, 1, s.cell.of_h, call.dtype);
}

void check_heads(const Call& call, const Arguments& given) {
  const Sizes& s = call.sizes;
  const long columns = given.pass == Pass::forward ? s.given_columns() : s.width();
  check(given.x, given.name_of_x(), call.shape(columns), call.given);
  check_states(call, given);
  check(given.weights[0], "weight_hh", given.weights[0].sizes(), call.given);
  CHECK_VALUE(given.clip >= 0, "clip: got ", given.clip, "; expected 0 or more");
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

Call checked(Arguments given) {
  CHECK_VALUE(given.fuse == "layers" || given.fuse == "steps", "fuse: got '", given.fuse,
              "'; expected 'steps' or 'layers'");
  Call call{};
  Sizes& s = call.sizes;
  call.isa = &current_isa();  // once: another thread may choose another
  call.given = given.x.dtype();
  call.packed = given.batch_sizes.has_value();
  call.reverse = given.directions < 0;
  call.together = given.fuse == "layers";
  call.clip = given.clip;
  set_cell(call, given);
  if (given.kind == Arguments::heads) {
    set_sizes_of_heads(call, given);
    set_rows(call, given);
    set_dtypes(call, given, s.cell.states > 1);
    check_heads(call, given);
    convert_heads(call, given);
    return call;
  }
  set_sizes(call, given);
  if (given.kind == Arguments::prepared) set_prepared_dtypes(call, given);
  check_states(call, given);
  check_weights(call, given);
  set_rows(call, given);
  if (given.kind == Arguments::layers) {
    s.dropout = given.dropout > 0;
    s.norm = call.options.norm;
    check_samples(given.samples, call);
    s.samples = given.samples;
    set_dtypes(call, given, given.samples > 0);
    set_dropout(call, given);
  }
  convert(call, given);
  return call;
}

}  // namespace fused_lstm
