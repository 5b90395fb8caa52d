// The recurrence of a layer's heads, in one direction, whose input product has been made: the
// operators `recurrence` and `recurrence_backward`. Schemas: kernels/fused_lstm/ops.py.
//
// A head's states, gates and weights are its own, and heads never wait for each other: each is a
// task for one worker, or where there are fewer heads than workers for a part of the team.
#include <algorithm>
#include <utility>

#include "ops/call.h"

namespace fused_lstm {
namespace {

constexpr long square = 16;  // of a matrix that is transposed
constexpr long chunk_bytes = 128 << 10;  // of x's part of the gates that is brought in at once

// T, B: steps, batch; N, K: heads, and units of each.
struct Heads {
  CellKind cell;
  const Isa* isa;
  Dtype given, dtype;
  int terms;
  long steps, batch, rows, count, units;
  bool reverse, packed;
  std::vector<long> first;
  // h0 [N, B, K], c0 [N, B, S*K], b_m [N, M*K] of M gates of h alone: heads first.
  Tensor h0, c0, weight, b_m, keep;

  long hidden() const { return count * units; }
  CellShape shape() const { return shape_of(cell); }
  Dtype kept_dtype() const { return shape().states > 1 ? dtype : given; }  // of gates
  bool is_custom() const { return cell >= CellKind::custom; }
  // A custom cell's c may be h itself, which the caller knows.
  bool has_own_c() const {
    return cell == CellKind::lstm || shape().states > 1 || (is_custom() && shape().saved > 0);
  }
  SmallShape rows_of(long columns) const {
    return packed ? SmallShape{{rows, columns}, 2} : SmallShape{{steps, batch, columns}, 3};
  }
  SmallShape of_heads(long columns) const {
    return packed ? SmallShape{{count, rows, columns}, 3}
                  : SmallShape{{count, steps, batch, columns}, 4};
  }
};

CellKind kind_of(const std::string& cell) {
  if (const std::optional<CellKind> custom = custom_kind(cell)) {
    const CellShape shape = shape_of(*custom);
    CHECK_VALUE(shape.h_gates() > 0 && shape.weights == 0, "cell: got '", cell,
                "'; expected one with gates of h, and without weights");
    return *custom;
  }
  if (cell == "lstm") return CellKind::lstm;
  if (cell == "gru") return CellKind::gru;
  if (cell == "gru_dreamer") return CellKind::gru_dreamer;
  if (cell == "rnn_tanh") return CellKind::rnn_tanh;
  if (cell == "rnn_relu") return CellKind::rnn_relu;
  if (cell == "slstm") return CellKind::slstm;
  CHECK_VALUE(cell == "slstm_exponential", "cell: got '", cell,
              "'; expected lstm, gru, gru_dreamer, rnn_tanh, rnn_relu, slstm or slstm_exponential");
  return CellKind::slstm_exponential;
}

// Rearranges [batch, S*N*K], each of S states with its heads side by side, to [N, batch, S*K]; or, of the
// rows of the call, back.
template <class T>
void by_heads(const Heads& heads, long batch, long states, const T* rows, T* by_head) {
  for (long b = 0; b < batch; ++b) {
    for (long s = 0; s < states; ++s) {
      for (long n = 0; n < heads.count; ++n) {
        std::copy_n(rows + ((b * states + s) * heads.count + n) * heads.units, heads.units,
                    by_head + ((n * batch + b) * states + s) * heads.units);
      }
    }
  }
}

template <class T>
void by_rows(const Heads& heads, long states, const T* by_head, T* rows) {
  for (long b = 0; b < heads.batch; ++b) {
    for (long s = 0; s < states; ++s) {
      for (long n = 0; n < heads.count; ++n) {
        std::copy_n(by_head + ((n * heads.batch + b) * states + s) * heads.units, heads.units,
                    rows + ((b * states + s) * heads.count + n) * heads.units);
      }
    }
  }
}

// Rows [batch, S*H] as a call has them, heads first, in a dtype.
Tensor heads_first(const Heads& heads, const Tensor& given, long batch, long states, Dtype dtype) {
  const Tensor rows = converted(given, dtype);
  const Tensor own = fresh(Dimensions({heads.count, batch, states * heads.units}), dtype);
  const auto arrange = [&](const auto* element) {
    using E = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    by_heads<E>(heads, batch, states, element, data_of<E>(own));
  };
  if (dtype == Dtype::Double) arrange(data_of<double>(rows));
  if (dtype == Dtype::Float) arrange(data_of<float>(rows));
  if (dtype == Dtype::BFloat16) arrange(data_of<uint16_t>(rows));
  return own;
}

// The rows `first` to `last` of a matrix, of one whose rows are its columns. A square goes by way of
// a small one: lines a power of two apart, as those of a weight may be, share a set of the cache.
template <class T>
void transpose(const T* from, long rows, long columns, long first, long last, T* to) {
  T small[square][square];
  for (long column = 0; column < columns; column += square) {
    const long width = std::min(square, columns - column);
    for (long k = 0; k < width; ++k) {
      std::copy_n(from + (column + k) * rows + first, last - first, small[k]);
    }
    for (long row = first; row < last; ++row) {
      T* const out = to + row * columns + column;
      for (long k = 0; k < width; ++k) out[k] = small[k][row - first];
    }
  }
}

Tensor state_of(const Heads& heads, const Tensor& state, long states, Dtype dtype) {
  return heads_first(heads, state, heads.batch, states, dtype);
}

// weight_hh [N, G*K, K] in a dtype, contiguous. DreamerV3 and TiRex have [N, K, G*K] in memory, of
// which aten::contiguous makes a copy in the time of a hundred steps.
Tensor weight_of(const Tensor& weight, Dtype dtype) {
  if (weight.dtype() != dtype || dtype == Dtype::BFloat16 || !weight.is_transposed()) {
    return converted(weight, dtype);
  }
  const Tensor own = fresh(weight.sizes(), dtype);
  const long count = weight.size(0), rows = weight.size(1), columns = weight.size(2);
  const long blocks = (rows + square - 1) / square;
  const auto copy = [&](const auto* element) {
    using E = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    run_on_team(weight.numel() < 1 << 16 ? 1 : team_size(), [&](const Worker& worker) {
      for (long i = worker.id; i < count * blocks; i += worker.count) {
        const long n = i / blocks, first = i % blocks * square;
        transpose(element + n * rows * columns, rows, columns, first,
                  std::min(first + square, rows), data_of<E>(own) + n * rows * columns);
      }
    });
  };
  if (dtype == Dtype::Double) copy(data_of<const double>(weight));
  if (dtype == Dtype::Float) copy(data_of<const float>(weight));
  return own;
}

Heads checked_heads(const Tensor& rows, const char* name, long columns, const Tensor& h0,
                    const Tensor& c0, const Tensor& weight, const OptionalTensor& bias_m,
                    const std::string& cell, bool reverse, const OptionalTensor& batch_sizes,
                    const OptionalTensor& keep, const Told& precision) {
  Heads heads{};
  heads.cell = kind_of(cell);
  heads.packed = batch_sizes.has_value();
  heads.reverse = reverse;
  const long gates = heads.shape().h_gates();
  CHECK_VALUE(weight.dim() == 3 && weight.numel() > 0 && weight.size(1) == gates * weight.size(2),
              "weight_hh: got shape ", shown(weight), "; expected [N, ", gates,
              "K, K], N and K not 0");
  heads.count = weight.size(0);
  heads.units = weight.size(2);
  CHECK_VALUE(rows.dim() == (heads.packed ? 2 : 3), name, ": got shape ", shown(rows),
              "; expected ", heads.packed ? "[N, G*H] with batch_sizes" : "[T, B, G*H]");
  CHECK_VALUE(h0.dim() == 2, "h0: got shape ", shown(h0), "; expected [B, H]");
  heads.given = rows.dtype();
  heads.isa = &current_isa();
  // An sLSTM's gradients by i are differences: of gates that were rounded to 8 bits nothing is left.
  // A custom cell is compiled for kernels of float and double.
  const bool wide = heads.shape().states > 1 || heads.is_custom();
  heads.dtype = wide ? compute_dtype(rows, name) : factor_dtype(rows, name, *heads.isa);
  heads.terms = heads.is_custom() ? 0 : terms_of(heads.given, precision);
  heads.batch = h0.size(0);
  heads.first = rows_before(rows, batch_sizes, heads.batch);
  heads.steps = static_cast<long>(heads.first.size()) - 1;
  heads.rows = heads.packed ? rows.size(0) : heads.steps * heads.batch;
  const long H = heads.hidden(), states = heads.shape().states;
  check(rows, name, heads.rows_of(columns * H), heads.given);
  check(h0, "h0", {heads.batch, H}, heads.given);
  check(c0, "c0", {heads.batch, states * H}, heads.given);
  check(weight, "weight_hh", weight.sizes(), heads.given);
  if (bias_m) {
    check(*bias_m, "bias_m", {heads.shape().of_h * H}, heads.given);
    heads.b_m = heads_first(heads, *bias_m, 1, heads.shape().of_h, heads.dtype);
  }
  if (keep) {
    check(*keep, "keep", heads.packed ? SmallShape{{heads.rows}, 1}
                                      : SmallShape{{heads.steps, heads.batch}, 2}, Dtype::Bool);
    heads.keep = keep->contiguous();
  }
  heads.h0 = state_of(heads, h0, 1, heads.dtype);
  heads.c0 = state_of(heads, c0, states, sum_dtype(heads.dtype));
  heads.weight = weight_of(weight, heads.dtype);
  return heads;
}

// Whether a head's weights are read as they lie; bfloat16 factors and terms are always packed.
template <class T>
bool as_they_lie(const Kernels<T>& kernels, const Heads& heads) {
  Sizes sizes{};
  sizes.steps = heads.steps;
  sizes.rows = heads.rows;
  sizes.hidden = heads.units;
  return kernels.short_forward.run && heads.shape().in_tiles() && is_short(sizes);
}

// How heads are divided: each on one worker, or on half of the team, or on all of it in turns.
struct Division {
  long team, groups;  // groups: as many as workers, two, or one
};

template <class T>
Division division_of(const Kernels<T>& kernels, const Heads& heads) {
  const Shapes& shapes = kernels.shapes;
  const long work = heads.rows * heads.shape().x_gates() * heads.hidden() * heads.units;
  if (work < 1 << 16) return {1, 1};
  const long most = team_size();
  if (heads.count >= most) return {most, most};
  const long blocks = (heads.units + shapes.lanes - 1) / shapes.lanes;
  const long tiles = blocks * ((heads.batch + shapes.gates.rows - 1) / shapes.gates.rows);
  const long groups = heads.count > 1 && most % 2 == 0 ? 2 : 1;
  return {std::min(most, groups * std::max(tiles, 1L)), groups};
}

// body(worker, head, group, first): of each head, on a part of the team whose first worker is
// `first`.
template <class Body>
void for_heads(const Heads& heads, const Division& division, const Body& body) {
  const auto run = [&](const Worker& worker) {
    if (division.groups == division.team) {
      for (long n = worker.id; n < heads.count; n += worker.count) {
        body(Worker{}, n, worker.id, worker.id);
      }
    } else if (division.groups == 2 && worker.count % 2 == 0) {
      const Worker half = worker.half();
      for (long n = worker.side(); n < heads.count; n += 2) {
        body(half, n, worker.side(), worker.id - half.id);
        half.sync();  // the next one's scratch is the same
      }
    } else {
      for (long n = 0; n < heads.count; ++n) {
        body(worker, n, 0, 0);
        worker.sync();
      }
    }
  };
  run_on_team(division.team, run);
}

// Makes the lane of a head, with what the forward and the backward have in common.
template <class T>
Lane<T> lane_of(const Heads& heads, long n, T* y) {
  Lane<T> lane{};
  lane.steps = heads.steps;
  lane.batch = heads.batch;
  lane.hidden = lane.outputs = heads.units;
  lane.cell = heads.cell;
  lane.first = heads.first.data();
  lane.reverse = heads.reverse;
  lane.keep = part_of<bool>(heads.keep, 0);
  lane.h0 = part_of<T>(heads.h0, n);
  lane.c0 = part_of<Sum<T>>(heads.c0, n);
  lane.w_hh = part_of<T>(heads.weight, n);
  lane.b_m = part_of<T>(heads.b_m, n);
  lane.y = y + n * heads.units;
  lane.y_stride = heads.hidden();
  return lane;
}

template <class E>
HeadColumns<E> columns_of(const Heads& heads, E* rows, long n) {
  return {rows + n * heads.units, heads.shape().x_gates() * heads.hidden(), heads.hidden()};
}

// The rows that belong to no step are 0.
template <class E>
void clear_rest(const Heads& heads, E* rows, long columns) {
  std::fill(rows + heads.first.back() * columns, rows + heads.rows * columns, E{});
}

template <class T>
Scratch<T> scratch_of(const Tensor& recurrent, const Tensor& panels, long group, long first) {
  return {part_of<T>(recurrent, group), part_of<T>(panels, first)};
}

struct Results {
  Tensor y, h_n, c_n, c, gates;
};

template <class T>
Results forward(const Kernels<T>& kernels, const Heads& heads, const Tensor& x_part, bool save) {
  using S = Sum<T>;
  const CellShape shape = heads.shape();
  const Division division = division_of(kernels, heads);
  const Dtype dtype = heads.dtype, sums = sum_dtype(dtype);
  const long H = heads.hidden(), width = shape.states * heads.units;
  const bool keeps = save && shape.saved > 0;
  // There x's part lies in what is kept.
  const bool in_place = save && sizeof(T) == sizeof(S) &&
                        std::max(shape.saved, 1L) >= shape.x_gates();
  Results out;
  out.y = fresh(heads.rows_of(H), dtype);
  out.h_n = fresh(Dimensions({heads.batch, H}), dtype);
  if (shape.saved) {
    out.c = keeps ? fresh(heads.of_heads(width), sums)
                  : fresh(Dimensions({heads.count, heads.batch, width}), sums);
  }
  if (keeps) out.gates = fresh(heads.of_heads(shape.saved * heads.units), dtype);
  const long row_bytes = shape.x_gates() * heads.units * sizeof(S);
  const long chunk = std::clamp(chunk_bytes / std::max(heads.batch * row_bytes, 1L), 1L, heads.steps);
  Tensor input;
  if (!in_place) {
    const long rows = std::min(chunk * heads.batch, heads.rows);
    input = fresh(Dimensions({division.groups, rows, shape.x_gates() * heads.units}), sums);
  }
  const bool lying = as_they_lie(kernels, heads);
  const long packed =
      lying ? 0 : kernels.recurrent_size({shape.h_gates(), heads.units, heads.units}, false);
  const Tensor recurrent = fresh(Dimensions({division.groups, packed}), dtype);
  const Tensor panels = fresh(Dimensions({division.team, kernels.shapes.panel_size}), dtype);
  const long workers = division.groups == division.team ? 1 : division.team;  // of a head
  const long ready_size = kernels.ready_size(workers * heads.batch, heads.units);
  const Tensor ready = fresh(Dimensions({division.groups, ready_size}), dtype);
  Tensor product;
  if (!shape.in_tiles()) {
    const long columns = shape.h_gates() * heads.units;
    product = fresh(Dimensions({division.groups, heads.batch, columns}), sums);
  }
  T* const y = data_of<T>(out.y);
  for_heads(heads, division, [&](const Worker& worker, long n, long group, long first) {
    Lane<T> lane = lane_of(heads, n, y);
    lane.ready = part_of<T>(ready, group);
    lane.product = part_of<S>(product, group);
    lane.c = part_of<S>(out.c, n);
    lane.gates = part_of<T>(out.gates, n);
    lane.save = save;
    lane.chunk = chunk;
    lane.in_place = in_place;
    lane.as_they_lie = lying;
    lane.input_part = part_of<S>(input, group);
    lane.input_stride = shape.x_gates() * heads.units;
    if constexpr (std::is_same_v<T, S>) {
      if (in_place) {
        lane.input_part =
            shape.saved ? lane.gates + (shape.saved - shape.x_gates()) * heads.units : lane.y;
        lane.input_stride = shape.saved ? shape.saved * heads.units : lane.y_stride;
      }
    }
    kernels.recur_forward(worker, lane, columns_of(heads, data_of<const T>(x_part), n),
                          scratch_of<T>(recurrent, panels, group, first));
  });
  // Each row's states after its last step.
  const bool has_c = heads.has_own_c();
  if (has_c) out.c_n = fresh(Dimensions({heads.batch, shape.states * H}), sums);
  const Tensor last = has_c ? fresh(Dimensions({heads.count, heads.batch, width}), sums) : Tensor();
  T* const h_n = data_of<T>(out.h_n);
  long b = 0;
  for (long place = heads.steps - 1; place >= 0; --place) {
    const long t = heads.reverse ? heads.steps - 1 - place : place;
    for (long row = heads.first[t] + b; row < heads.first[t + 1]; ++row, ++b) {
      std::copy_n(y + row * H, H, h_n + b * H);
      for (long n = 0; has_c && n < heads.count; ++n) {
        const S* const c = part_of<S>(out.c, n) + (save ? row : b) * width;
        std::copy_n(c, width, part_of<S>(last, n) + b * width);
      }
    }
  }
  if (has_c) by_rows(heads, shape.states, data_of<S>(last), data_of<S>(out.c_n));
  clear_rest(heads, y, H);
  return out;
}

struct Gradients {
  Tensor dx, dh0, dc0, dweight, db_m;
};

template <class T>
Gradients backward(const Kernels<T>& kernels, const Heads& heads, const Tensor& dy,
                   const Tensor& dh_n, const Tensor& dc_n, const Tensor& y, const Tensor& c,
                   const Tensor& gates, double clip) {
  using S = Sum<T>;
  const CellShape shape = heads.shape();
  const Division division = division_of(kernels, heads);
  const Dtype dtype = heads.dtype, sums = sum_dtype(dtype);
  const long H = heads.hidden(), K = heads.units, width = shape.states * K;
  Gradients out;
  out.dx = fresh(heads.rows_of(shape.x_gates() * H), dtype);
  out.dweight = fresh(heads.weight.sizes(), dtype);
  const Tensor dh0 = fresh(Dimensions({heads.count, heads.batch, K}), sums);
  const Tensor by_last = dh_n.defined() ? state_of(heads, dh_n, 1, sums) : Tensor();
  const Tensor dc = dc_n.defined() ? state_of(heads, dc_n, shape.states, sums)
                                   : fresh(Dimensions({heads.count, heads.batch, width}), sums);
  if (!dc_n.defined()) std::fill_n(data_of<S>(dc), dc.numel(), S(0));
  const bool has_bias = shape.of_h > 0 && heads.b_m.defined();
  const Tensor db = has_bias ? fresh(Dimensions({heads.count, shape.h_gates() * K}), dtype) : Tensor();
  const long blocks = kernels.blocks_size(shape.gradients(), K, heads.rows);
  const long packed = kernels.recurrent_size({shape.h_gates(), K, K}, false);
  const Tensor dgates = fresh(Dimensions({division.groups, blocks}), dtype);
  const Tensor recurrent = fresh(Dimensions({division.groups, packed}), dtype);
  const Tensor panels = fresh(Dimensions({division.team, kernels.shapes.panel_size}), dtype);
  Tensor partial;
  if (sizeof(T) < sizeof(S) && heads.rows > kernels.shapes.rows_at_once) {
    partial = fresh(Dimensions({division.groups, shape.h_gates() * K * K}), sums);
  }
  T* const output = data_of<T>(y);
  for_heads(heads, division, [&](const Worker& worker, long n, long group, long first) {
    Lane<T> lane = lane_of(heads, n, output);
    lane.c = part_of<S>(c, n);
    lane.gates = part_of<T>(gates, n);
    lane.save = true;
    LaneGradient<T> gradient{};
    gradient.dy = dy.defined() ? data_of<S>(dy) + n * K : nullptr;
    gradient.dh_n = part_of<S>(by_last, n);
    gradient.dh0 = part_of<S>(dh0, n);
    gradient.dc0 = part_of<S>(dc, n);
    gradient.dw_hh = part_of<T>(out.dweight, n);
    gradient.db_hh = part_of<T>(db, n);
    gradient.partial = part_of<S>(partial, group);
    gradient.dgates = part_of<T>(dgates, group);
    gradient.clip = static_cast<S>(clip);
    kernels.recur_backward(worker, lane, gradient, columns_of(heads, data_of<T>(out.dx), n),
                           scratch_of<T>(recurrent, panels, group, first));
  });
  clear_rest(heads, data_of<T>(out.dx), shape.x_gates() * H);
  out.dh0 = fresh(Dimensions({heads.batch, H}), sums);
  out.dc0 = fresh(Dimensions({heads.batch, shape.states * H}), sums);
  by_rows(heads, 1, data_of<S>(dh0), data_of<S>(out.dh0));
  by_rows(heads, shape.states, data_of<S>(dc), data_of<S>(out.dc0));
  out.db_m = fresh(Dimensions({has_bias ? shape.of_h * H : 0}), dtype);
  for (long n = 0; has_bias && n < heads.count; ++n) {  // the rows of h alone are the last
    for (long m = 0; m < shape.of_h; ++m) {
      std::copy_n(part_of<T>(db, n) + (shape.sums + m) * K, K,
                  data_of<T>(out.db_m) + (m * heads.count + n) * K);
    }
  }
  return out;
}

Tensor gradient_of(const OptionalTensor& tensor, const char* name, Dimensions shape,
                   const Heads& heads) {
  if (!tensor || !tensor->defined()) return Tensor();
  check(*tensor, name, shape, heads.given);
  return converted(*tensor, sum_dtype(heads.dtype));
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrence(
    const Tensor& x_part, const Tensor& h0, const Tensor& c0, const Tensor& weight_hh,
    const OptionalTensor& bias_m, const std::string& cell, bool save, bool reverse,
    const OptionalTensor& batch_sizes, const OptionalTensor& keep, double,  // the backward's
    const Told& precision) {
  const Heads heads = checked_heads(x_part, "x_part", shape_of(kind_of(cell)).x_gates(), h0, c0,
                                    weight_hh, bias_m, cell, reverse, batch_sizes, keep, precision);
  const Tensor x = converted(x_part, heads.dtype);
  const int terms = terms_worth(heads.terms, Pass::forward, heads.batch);
  return with_factors(heads.dtype, terms, *heads.isa, [&](const auto& kernels) {
    Results out = forward(kernels, heads, x, save);
    const auto as_given = [&](Tensor& tensor) { return to_dtype(std::move(tensor), heads.given); };
    const bool keeps = save && heads.shape().saved > 0;
    return std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>{
        as_given(out.y), as_given(out.h_n),
        heads.has_own_c() ? as_given(out.c_n) : fresh(nothing, heads.given),
        keeps ? std::move(out.c) : fresh(nothing, sum_dtype(heads.dtype)),
        keeps ? to_dtype(std::move(out.gates), heads.kept_dtype())
              : fresh(nothing, heads.kept_dtype())};
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrence_backward(
    const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
    const Tensor& h0, const Tensor& c0, const Tensor& weight_hh, const OptionalTensor& bias_m,
    const Tensor& y, const Tensor& c, const Tensor& gates, const std::string& cell, bool reverse,
    const OptionalTensor& batch_sizes, const OptionalTensor& keep, double clip,
    const Told& precision) {
  const Heads heads = checked_heads(y, "y", 1, h0, c0, weight_hh, bias_m, cell, reverse,
                                    batch_sizes, keep, precision);
  const CellShape shape = heads.shape();
  if (shape.saved) {
    check(c, "c", heads.of_heads(shape.states * heads.units), sum_dtype(heads.dtype));
    check(gates, "gates", heads.of_heads(shape.saved * heads.units), heads.kept_dtype());
  } else {  // what the forward returns where it saves nothing
    check(c, "c", nothing, sum_dtype(heads.dtype));
    check(gates, "gates", nothing, heads.kept_dtype());
  }
  CHECK_VALUE(clip >= 0, "clip: got ", clip, "; expected 0 or more");
  const Tensor by_y = gradient_of(dy, "dy", y.sizes(), heads);
  const Tensor by_h = gradient_of(dh_n, "dh_n", h0.sizes(), heads);
  const Tensor by_c = heads.has_own_c() ? gradient_of(dc_n, "dc_n", c0.sizes(), heads) : Tensor();
  const Tensor output = converted(y, heads.dtype), kept = converted(gates, heads.dtype);
  const Tensor states = c.contiguous();
  const int terms = terms_worth(heads.terms, Pass::backward, heads.batch);
  return with_factors(heads.dtype, terms, *heads.isa, [&](const auto& kernels) {
    Gradients out = backward(kernels, heads, by_y, by_h, by_c, output, states, kept, clip);
    const auto as_given = [&](Tensor& tensor) { return to_dtype(std::move(tensor), heads.given); };
    return std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>{
        as_given(out.dx), as_given(out.dh0), as_given(out.dc0), as_given(out.dweight),
        as_given(out.db_m)};
  });
}

}  // namespace fused_lstm
