// A call of the operators lstm or recurrence, or of their backwards, and its lanes: layers and
// directions, or heads. What forward.cpp and backward.cpp have in common.
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
  double zoneout_h, zoneout_c, recurrent, candidate;
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
  bool together;                // lanes may run at once: fuse="layers"
  long per_lane;                // weights, nn.LSTM's
  Tensor x, h0, c0;         // x: x's part of the gates where sizes.given
  Tensor own;               // [N, inputs] or [N, inputs * H] of a cell with inputs, behind x as it is given
  Tensor not_reset;              // [D, T, B] or [D, N], or undefined
  Tensors weights;          // lane by lane, or one [N, G*K, K] of all heads
  Tensor b_m;               // of heads [N, M*K], of M gates of h alone; or undefined
  bool reverse;             // every lane runs from the last step to the first
  double clip;              // of heads' gradients through their weights, or 0
  CellOptions options;
  Tensors vectors;  // the weights that a cell adds, lane by lane, as sums
  Tensors inner;    // lane by lane, those of products inside the step; or none
  OptionalTensor seed;   // [1] or [2]: see fused_lstm.reference.draw
  Dropout dropout;
  std::vector<long> first;      // [T + 1]: see Lane
  bool packed;                  // [N, ...] rather than [T, B, ...]

  // A tensor [T, B, columns] or [N, columns], and `count` of them.
  SmallShape shape(long columns) const;
  SmallShape shape(long count, long columns) const;
};

struct Forward {
  Tensor y, h_n, c_n, h, c, gates;
};

struct Backward {
  Tensor dx, dh0, dc0;
  Tensors dweights, dvectors;
  Tensors dinner;  // as Call::inner
  Tensor db;  // of heads [N, h_gates * K], where they have b_m
};

// Fills in the rows of each step, the sizes that are of steps and rows, and `not_reset`; checks
// batch_sizes and not_reset. x: [T, B, ..] or [N, ..], and sizes.batch is known. The `not_reset` of lanes
// that are given has one direction, and no dimension of it.
void set_rows(Call& call, const Tensor& x, const OptionalTensor& batch_sizes,
              const OptionalTensor& not_reset);

// Fills in the dtypes and the terms of a pass, given the sizes and the instruction set. wide: factors of
// products may not be bfloat16. name: x's, in an error.
void set_dtypes(Call& call, const Tensor& x, const char* name, Pass pass, bool wide,
                const PrecisionOverride& precision);

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
  const Tensor* const own = &call.weights[index * call.per_lane];
  const bool bias = call.per_lane >= 4 && !call.options.norm;  // which has its own: see LaneOptions
  Weights<E> weights{data_of<E>(own[0]), data_of<E>(own[1]), bias ? data_of<E>(own[2]) : nullptr,
                     bias ? data_of<E>(own[3]) : nullptr,
                     call.sizes.projected ? data_of<E>(own[call.per_lane - 1]) : nullptr, {}};
  const InnerProducts* const inner = call.sizes.cell.inner;
  for (long k = 0; inner && k < inner->count; ++k) {
    if (!inner->is_product(k)) continue;
    weights.w_inner[k] = data_of<E>(call.inner[index * inner->matrices + inner->number[k]]);
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
  const long columns = call.own.size(1), each = columns / s.cell.inputs;
  return {{data_of<T>(call.own), columns, each}, each == 1};
}

// The options of all lanes that nn.LSTM's cell does not have, and their memory.
template <class T>
class OptionsOfLanes {
 public:
  OptionsOfLanes(const Kernels<T>& kernels, const Call& call, bool backward);

  // Returns a lane's; null: it has none.
  const LaneOptions<T>* of(long index) const { return lanes_.empty() ? nullptr : &lanes_[index]; }

  Tensors gradients() const;  // in the order of Call::vectors
  // Writes the bias gradients of a lane that normalizes, [G*H] each.
  void bias_gradients(long index, T* ih, T* hh) const;

 private:
  void normalize(LaneOptions<T>& options, const Call& call, long index);

  std::vector<LaneOptions<T>> lanes_;
  CellShape cell_{};
  long hidden_ = 0, vectors_ = 0;  // of a lane
  long vector_units_ = 0;          // of Call::vectors, as they lie apart
  Tensor scratch_, recurrent_, fed_first_, fed_, unprojected_, dw_ch_, own_, zeros_, made_, biases_;
};

// Points a lane that normalizes at its W x [N, G*H] and R h [N, h_gates * H], saved behind all c.
template <class T>
void set_products(Lane<T>& lane, const Call& call, const Tensor& c, long index) {
  const Sizes& s = call.sizes;
  const CellShape shape = s.cell;
  const long lanes = s.layers * s.directions, size = s.rows * s.hidden;
  const long before = lanes * shape.states + index * shape.products();
  lane.input_part = part_of<Sum<T>>(c, 0) + before * size;
  lane.by_h = lane.input_part + shape.x_gates() * size;
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
  lane.input_stride = shape.x_gates() * s.hidden;
  lane.first = call.first.data();
  lane.reverse = call.reverse || (!s.given && place == 1);
  lane.not_reset = part_of<bool>(call.not_reset, s.given ? 0 : place);
  lane.h0 = part_of<T>(call.h0, index);
  lane.c0 = part_of<Sum<T>>(call.c0, index);
  lane.w_ih = weights.w_ih;
  lane.w_hh = weights.w_hh;
  lane.b_ih = weights.b_ih;
  lane.b_hh = weights.b_hh;
  lane.w_hr = weights.w_hr;
  lane.inner = s.inner;
  std::copy_n(weights.w_inner, InnerProducts::most, lane.w_inner);
  lane.y = y + place * s.outputs;
  lane.y_stride = s.width();
  lane.options = options.of(index);
  if (s.cell.inputs > 0) lane.own = own_inputs_of(call, s.given ? x : nullptr, index);
  if (s.given) {
    if (x) lane.given = columns_of(call, x, index);
    lane.b_m = part_of<T>(call.b_m, index);
    return lane;
  }
  lane.x = x;
  lane.inputs = index < s.directions ? s.inputs : s.width();
  const T* b_hh = weights.b_hh;  // where the lane normalizes, LaneOptions has the biases, except for this
  if (call.options.norm && call.per_lane >= 4 && weights.w_hh) {
    b_hh = data_of<T>(call.weights[index * call.per_lane + 3]);
  }
  if (shape.of_h > 0 && b_hh) lane.b_m = b_hh + shape.sums * s.hidden;
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
  if (plan.abreast == plan.team) {
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
