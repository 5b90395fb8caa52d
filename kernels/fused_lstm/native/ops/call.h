// A call of the operators lstm, prepared_lstm or recurrence, or of a backward: what it is told, checked by
// call.cpp, and its lanes, layers and directions, or heads, as forward.cpp and backward.cpp run them.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

#include "isa/isa.h"
#include "isa/prepared.h"
#include "memory.h"
#include "ops/drop.h"
#include "ops/ops.h"
#include "plan.h"

namespace fused_lstm {

// A call's options that torch.nn's cells do not have.
struct CellOptions {
  bool on, peephole, norm;
  double zoneout_h, zoneout_c, recurrent;
};

struct NamedCell {
  const Cell* cell;
  CellOptions options;
};

// Vectors [H] that a cell's pointwise part reads where it reads any: an LSTM's are its peepholes.
constexpr long vectors_of(const CellShape& cell) {
  return cell.is_lstm ? cell.x_gates() - 1 : cell.weights;
}

// The cell of the operator lstm's `cell` and `rates`, for the call's instruction set; drawn: whether there
// is a seed.
NamedCell cell_of(const Isa& isa, const std::string& cell, const std::vector<double>& rates,
                  bool drawn);

// The cell of the operator recurrence's `cell`, likewise.
const Cell& lane_cell_of(const Isa& isa, const std::string& cell);

// What a weight of a lane is. w_ch: the vectors of a unit that its cell reads. gain_c and bias_c are of an
// LSTM that normalizes. inner: of a product inside the step.
enum class Weight { w_ih, w_hh, b_ih, b_hh, w_hr, w_ch, gain_ih, gain_hh, gain_c, bias_c, inner };

constexpr long weight_kinds = static_cast<long>(Weight::inner) + 1;

struct Slot {
  Weight kind;
  WeightShape shape;  // a vector has gates * units numbers

  bool is_inner() const { return kind == Weight::inner; }
  bool is_matrix() const {
    return kind == Weight::w_ih || kind == Weight::w_hh || kind == Weight::w_hr || is_inner();
  }
  bool is_of_cell() const { return kind >= Weight::w_ch && !is_inner(); }  // which is kept as sums
  SmallShape dimensions() const;
};

// A lane's weights in the order in which the operators take them and return their gradients.
struct Slots {
  static constexpr long none = -1;

  std::array<Slot, weight_kinds - 1 + InnerProducts::most> list;
  long count = 0;
  std::array<long, weight_kinds> first;  // of each kind, or none

  Slots() { first.fill(none); }

  long of(Weight kind) const { return first[static_cast<long>(kind)]; }
};

// Tells the weights of a lane of layer `layer`. Sizes say whether it has biases and a projection.
Slots slots_of(const Sizes& sizes, const CellOptions& cell, long layer);

inline const OptionalTensor nothing_told;
inline const std::vector<double> no_rates;
inline const PrecisionOverride no_precision;

// What an operator is told.
struct Arguments {
  enum Kind { layers, prepared, heads };

  Kind kind;
  Pass pass;
  Tensor x, h0, c0;  // x: of heads x_part or, backwards, y
  Tensors weights;
  const OptionalTensor &batch_sizes, &not_reset;
  const std::string& cell;
  int64_t directions = 1;  // negative: they run from the last step to the first
  std::string_view fuse = "layers";
  double dropout = 0;
  const OptionalTensor& seed = nothing_told;
  const std::vector<double>& rates = no_rates;
  const PrecisionOverride& precision = no_precision;
  int64_t samples = 0;
  bool weight_only = false;                     // of prepared weights
  const OptionalTensor& bias_m = nothing_told;  // of heads, as is
  double clip = 0;

  const char* name_of_x() const {
    return kind != heads ? "x" : pass == Pass::backward ? "y" : "x_part";
  }
};

// Arguments that were checked. x, h0 and weights are factors of products, and in their dtype; c0 is
// in that of the sums. Of a short call weights are in the dtype given, if that is bfloat16.
struct Call {
  Sizes sizes;
  const Isa* isa;
  const Cell* cell;             // whose shape sizes have
  Dtype given, dtype;   // of the arguments, and of the factors of products
  Dtype weight_dtype;   // that weights are read in: the given one where they are read as they lie
  int terms;            // of float32 factors: see with_factors
  Prepared prepared;    // what prepared weights are of, where sizes.prepared
  bool apart;           // their gates lie apart: see PreparedMatrix
  bool together;                // lanes may run at once: fuse="layers"
  Slots slots;                  // of a lane of the first layer; none of heads
  Tensor x, h0, c0;         // x: x's part of the gates where sizes.given
  long own_columns;         // of x as it is given: the cell's inputs, behind the others
  Tensor own;               // x as it is given, [N, I + own_columns], of a cell with inputs
  Tensor not_reset;              // [D, T, B] or [D, N], or undefined
  Tensors weights;          // lane by lane as `slots` says, or one [N, G*K, K] of all heads
  Tensor b_m;               // of heads [N, M*K], of M gates of h alone; or undefined
  bool reverse;             // every lane runs from the last step to the first
  double clip;              // of heads' gradients through their weights, or 0
  CellOptions options;
  OptionalTensor seed;   // [1] or [2]: see fused_lstm.reference.draw
  Dropout dropout;
  std::vector<long> first;      // [T + 1]: see Lane
  bool packed;                  // [N, ...] rather than [T, B, ...]

  // A tensor [T, B, columns] or [N, columns], and `count` of them.
  SmallShape shape(long columns) const;
  SmallShape shape(long count, long columns) const;

  // Of a list like `weights` that of lane `index`, k: of the products inside the step; null: there is none.
  const Tensor* of_lane(const Tensors& list, long index, Weight kind, long k = 0) const {
    const long at = slots.of(kind);
    return at == Slots::none ? nullptr : &list[index * slots.count + at + k];
  }
  template <class E>
  E* data_of_lane(const Tensors& list, long index, Weight kind, long k = 0) const {
    const Tensor* const tensor = of_lane(list, index, kind, k);
    return tensor ? static_cast<E*>(tensor->data()) : nullptr;
  }
};

struct Forward {
  Tensor y, h_n, c_n, h, c, gates;
};

struct Backward {
  Tensor dx, dh0, dc0;
  Tensors dweights;  // as Call::weights
  Tensor db;  // of heads [N, h_gates * K], where they have b_m
};

// Checks and converts what an operator is told: the ValueError of what does not fit names it.
Call checked(Arguments arguments);

Forward run_forward(const Call& call, bool save);

// by: of the sums' dtype, as are dx, dh0 and dc0; those that are undefined, as `gates` always is, are 0.
// h_n and c_n of `saved` are not used.
Backward run_backward(const Call& call, const Forward& by, const Forward& saved, bool needs_dx);

// The index-th of the equal parts of a contiguous tensor [count, ...], or null where it has none.
template <class T>
T* part_of(const Tensor& tensor, long index) {
  if (!tensor.defined() || tensor.numel() == 0) return nullptr;
  return data_of<T>(tensor) + index * (tensor.numel() / tensor.size(0));
}

// Whether the backward finds a maximum among columns that a step has saved, which no rounding may move.
inline bool compares(const Sizes& s) { return s.cell.inner && s.cell.inner->compares; }

// The dtype of columns that a step has saved.
inline Dtype saved_dtype(const Call& call) {
  return compares(call.sizes) ? sum_dtype(call.dtype) : call.given;
}

constexpr std::array<int64_t, 1> nothing = {0};  // the shape of a result that is not wanted

// Its dtype, given that of elements.
inline Dtype dtype_of(const Buffer& buffer, Dtype dtype) {
  return buffer.sums ? sum_dtype(dtype) : dtype;
}

// Undefined where the plan has none.
inline Tensor fresh(const Buffer& buffer, Dtype dtype) {
  if (buffer.count == 0) return Tensor();
  return fresh(Dimensions({buffer.count, buffer.rows, buffer.columns}), dtype_of(buffer, dtype));
}

// Returns the weights of lane `index` of all, in the dtype that they are in.
template <class E>
Weights<E> weights_of(const Call& call, long index) {
  if (call.sizes.given) {
    Weights<E> own{};
    own.w_hh = part_of<E>(call.weights[0], index);
    return own;
  }
  const auto data = [&](Weight kind, long k = 0) {
    return call.data_of_lane<E>(call.weights, index, kind, k);
  };
  Weights<E> weights{};
  weights.w_ih = data(Weight::w_ih);
  weights.w_hh = data(Weight::w_hh);
  if (!call.options.norm) {  // which has its own biases: see LaneOptions
    weights.b_ih = data(Weight::b_ih);
    weights.b_hh = data(Weight::b_hh);
  }
  weights.w_hr = data(Weight::w_hr);
  const CellShape& cell = call.sizes.cell;
  for (long k = 0; k < cell.phases_inside(); ++k) {
    if (cell.inner->is_product(k)) weights.w_inner[k] = data(Weight::inner, cell.inner->number[k]);
  }
  return weights;
}

// A head's columns of rows of all heads' gates.
template <class T>
HeadColumns<T> columns_of(const Call& call, T* rows, long head) {
  const Sizes& s = call.sizes;
  return {rows + head * s.hidden, s.given_columns(), s.heads * s.hidden};
}

// The inputs of a lane's cell: behind x's part of the gates where that is given.
template <class T>
OwnInputs<const T> own_inputs_of(const Call& call, const T* x, long head) {
  const Sizes& s = call.sizes;
  if (s.given) {
    const T* const first = x ? x + s.heads * s.cell.x_gates() * s.hidden : nullptr;
    return {columns_of(call, first, head), false};
  }
  if (!call.own.defined()) return {};
  const bool single = call.own_columns == s.cell.inputs;
  const T* const first = data_of<T>(call.own) + s.inputs;
  return {{first, s.inputs + call.own_columns, single ? 1 : s.state_units()}, single};
}

// The options of all lanes that nn.LSTM's cell does not have, and their memory.
template <class T>
class OptionsOfLanes {
 public:
  OptionsOfLanes(const Kernels<T>& kernels, const Call& call, bool backward);

  // Returns a lane's; null: it has none.
  const LaneOptions<T>* of(long index) const { return lanes_.empty() ? nullptr : &lanes_[index]; }

  // Writes the gradients of a lane's weights of its cell.
  void gradients(const Call& call, const Tensors& dweights, long index) const;
  // Writes the bias gradients of a lane that normalizes, [G*H] each.
  void bias_gradients(long index, T* ih, T* hh) const;

 private:
  void normalize(LaneOptions<T>& options, const Call& call, long index);

  std::vector<LaneOptions<T>> lanes_;
  CellShape cell_{};
  long hidden_ = 0;
  Tensor scratch_, recurrent_, fed_first_, fed_, unprojected_, dw_ch_, own_, zeros_, made_, biases_;
};

// Points a lane that normalizes at its W x [N, G*H] and R h [N, h_gates * H], saved behind all c.
template <class T>
void set_products(Lane<T>& lane, const Call& call, const Tensor& c, long index) {
  const Sizes& s = call.sizes;
  const CellShape shape = s.cell;
  const long lanes = s.layers * s.directions, size = s.rows * s.hidden;
  const long before = lanes * shape.states + index * shape.products();
  lane.scratch.input_part = part_of<Sum<T>>(c, 0) + before * size;
  lane.scratch.by_h = lane.scratch.input_part + shape.x_gates() * size;
}

// Returns where the numbers of a lane's rows are saved, behind all c; null where its step has no sums.
template <class T>
Sum<T>* numbers_of(const Call& call, const Tensor& c, long index) {
  const Sizes& s = call.sizes;
  if (!s.cell.inner || s.cell.inner->numbers == 0) return nullptr;
  const long behind = s.lanes() * s.state_columns() + index * s.cell.inner->numbers;
  return part_of<Sum<T>>(c, 0) + behind * s.rows;
}

// Lane `index` of all, as the forward and the backward have it in common.
template <class T>
Lane<T> lane_of(const Kernels<T>& kernels, const Call& call, const Weights<T>& weights,
                const OptionsOfLanes<T>& options, long index, const T* x, T* y) {
  const Sizes& s = call.sizes;
  const CellShape& shape = s.cell;
  const long place = index % s.abreast();  // direction, or head
  Lane<T> lane{};
  lane.steps = s.steps;
  lane.batch = s.batch;
  lane.hidden = s.hidden;
  lane.outputs = s.outputs;
  lane.cell = s.cell;
  const long kind = static_cast<long>(kernels.factors);
  const CellFunctions with_options = call.cell->with_options[kind];
  const bool other = call.options.on && with_options.finish;
  lane.functions = other ? with_options : call.cell->functions[kind];
  lane.scratch.input_stride = shape.x_gates() * s.hidden;
  lane.arguments.first = call.first.data();
  lane.reverse = call.reverse || (!s.given && place == 1);
  lane.arguments.not_reset = part_of<bool>(call.not_reset, s.given ? 0 : place);
  lane.arguments.h0 = part_of<T>(call.h0, index);
  lane.arguments.c0 = part_of<Sum<T>>(call.c0, index);
  lane.weights = weights;
  lane.inner = s.inner;
  lane.results.y = y + place * s.outputs;
  lane.results.y_stride = s.width();
  lane.options = options.of(index);
  if (s.cell.inputs > 0) lane.arguments.cell_inputs = own_inputs_of(call, s.given ? x : nullptr, index);
  if (s.given) {
    if (x) lane.arguments.x_part = columns_of(call, x, index);
    lane.weights.b_m = part_of<T>(call.b_m, index);
    return lane;
  }
  lane.arguments.x = x;
  lane.inputs = index < s.directions ? s.inputs : s.width();
  const T* b_hh = weights.b_hh;  // where the lane normalizes, LaneOptions has the biases, except for this
  if (call.options.norm && weights.w_hh) {
    b_hh = call.data_of_lane<T>(call.weights, index, Weight::b_hh);
  }
  if (shape.of_h > 0 && b_hh) lane.weights.b_m = b_hh + shape.sums * s.hidden;
  return lane;
}

// Scratch of a layer's sweeps.
template <class T>
struct SweepScratch {
  Tensor recurrent, panels;

  SweepScratch(const Plan& plan, Dtype dtype)
      : recurrent(fresh(plan.recurrent, dtype)), panels(fresh(plan.panels, dtype)) {}

  // The memory of the slot-th lane abreast, for the part of the team that begins with a worker.
  Scratch<T> of(long slot, long worker) const {
    return {part_of<T>(recurrent, slot), part_of<T>(panels, worker)};
  }
};

// body(worker, lane, first) for each lane of a layer, as the plan divides them: on one worker, on half
// of the team, or on all of it in turn; `first` is the first worker of its part of the team. Lanes whose
// numbers differ by a multiple of `abreast` have the same scratch, and follow one another.
template <class Body>
void for_lanes(const Worker& worker, long lanes, const Plan& plan, const Body& body) {
  if (plan.each_alone()) {
    for (long slot = worker.id; slot < plan.abreast; slot += worker.count) {
      for (long lane = slot; lane < lanes; lane += plan.abreast) body(Worker{}, lane, worker.id);
    }
    return;
  }
  const bool halves = plan.abreast == 2 && worker.count % 2 == 0;
  const Worker own = halves ? worker.half() : worker;
  const long begin = halves ? worker.side() : 0, step = halves ? 2 : 1;
  for (long lane = begin; lane < lanes; lane += step) {
    if (lane > begin) own.sync();  // its scratch is the same
    body(own, lane, worker.id - own.id);
  }
}

// The rows of a [N, columns] tensor that belong to no step are 0.
template <class E>
void clear_rest(const Call& call, E* rows, long columns) {
  std::fill(rows + call.first.back() * columns, rows + call.sizes.rows * columns, E{});
}

// out = the mask of the index-th layer's output times `in`.
template <class T>
void drop_layer(const Kernels<T>& kernels, const Call& call, long index, const T* in, T* out) {
  const Sizes& s = call.sizes;
  const long count = s.rows * s.width();
  drop(kernels.dropout, call.dropout, count, index * count, in, out);
}

// Multiplies the gradients with respect to that output by the mask.
template <class T>
void drop_gradient(const Kernels<T>& kernels, const Call& call, long index, Sum<T>* dy) {
  const Sizes& s = call.sizes;
  const long count = s.rows * s.width();
  drop(kernels.dropout_gradient, call.dropout, count, index * count, dy, dy);
}

template <class T>
Wavefront<T> wavefront_of(const Call& call, const std::vector<Lane<T>>& lanes,
                          const Tensor& dropped, const Tensor& packed) {
  Wavefront<T> wave{};
  wave.lanes = lanes.data();
  wave.count = static_cast<long>(lanes.size());
  wave.dropout = call.dropout;
  wave.dropped = part_of<T>(dropped, 0);
  wave.packed = data_of<T>(packed);
  wave.packed_size = packed.size(2);
  return wave;
}

}  // namespace fused_lstm
