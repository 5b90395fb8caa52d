// A call of the operators lstm or lstm_backward, and its layers and directions: what forward.cpp
// and backward.cpp have in common.
#pragma once

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
  CellKind kind;
  CellOptions options;
};

// Vectors [H] that a cell's pointwise part reads, where it has peepholes.
constexpr long peepholes_of(CellKind kind) {
  return kind >= CellKind::custom ? shape_of(kind).weights : shape_of(kind).x_gates() - 1;
}

// From the operators' `cell` and `rates`; drawn: whether there is a seed.
NamedCell cell_of(const std::string& cell, const std::vector<double>& rates, bool drawn);

// Arguments that were checked. x, h0 and weights are factors of products, and in their dtype; c0 is
// in that of the sums. Of a short call weights are in the dtype given, if that is bfloat16.
struct Call {
  Sizes sizes;
  const Isa* isa;
  Dtype given, dtype;   // of the arguments, and of the factors of products
  int terms;            // of float32 factors: see with_factors
  Prepared prepared;    // what prepared weights are of, where sizes.prepared
  bool together;                // lanes may run at once: fuse="layers"
  long per_lane;                // weights, nn.LSTM's
  Tensor x, h0, c0;
  Tensor keep;              // [D, T, B] or [D, N], or undefined
  Tensors weights;
  CellOptions cell;
  Tensors vectors;  // the weights that a cell adds, lane by lane, as sums
  OptionalTensor seed;   // [1] or [2]: see Cell.draw in kernels/fused_lstm/cell.py
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
};

// Returns where each step's rows begin, and at last their number; checks batch_sizes.
std::vector<long> rows_before(const Tensor& x, const OptionalTensor& batch_sizes, long batch);

Forward run_forward(const Call& call, bool save);

// dy, dh_n, dc_n are of the sums' dtype, as are dx, dh0 and dc0, or undefined. Of `saved`, h_n and
// c_n are not used.
Backward run_backward(const Call& call, const Tensor& dy, const Tensor& dh_n,
                      const Tensor& dc_n, const Forward& saved, bool needs_dx);

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
  const Tensor* const own = &call.weights[index * call.per_lane];
  const bool bias = call.per_lane >= 4 && !call.cell.norm;  // which has its own: see Added
  return {data_of<E>(own[0]), data_of<E>(own[1]), bias ? data_of<E>(own[2]) : nullptr,
          bias ? data_of<E>(own[3]) : nullptr,
          call.sizes.projected ? data_of<E>(own[call.per_lane - 1]) : nullptr};
}

// The options of all lanes that nn.LSTM's cell does not have, and their memory.
template <class T>
class AddedLanes {
 public:
  AddedLanes(const Kernels<T>& kernels, const Call& call, bool backward);

  // Returns a lane's; null: it has none.
  const Added<T>* of(long index) const { return lanes_.empty() ? nullptr : &lanes_[index]; }

  Tensors gradients() const;  // in the order of Call::vectors
  // Writes the bias gradients of a lane that normalizes, [G*H] each.
  void bias_gradients(long index, T* ih, T* hh) const;

 private:
  void normalize(Added<T>& added, const Call& call, long index);

  std::vector<Added<T>> lanes_;
  CellKind cell_ = CellKind::lstm;
  long hidden_ = 0, vectors_ = 0;  // of a lane
  Tensor scratch_, recurrent_, fed_first_, fed_, unprojected_, dw_ch_, own_, zeros_, made_, biases_;
};

// Points a lane that normalizes at its W x [N, G*H] and R h [N, h_gates * H], saved behind all c.
template <class T>
void set_products(Lane<T>& lane, const Call& call, const Tensor& c, long index) {
  const Sizes& s = call.sizes;
  const CellShape shape = shape_of(s.cell);
  const long lanes = s.layers * s.directions, size = s.rows * s.hidden;
  const long before = lanes * shape.states + index * shape.products();
  lane.input_part = part_of<Sum<T>>(c, 0) + before * size;
  lane.by_h = lane.input_part + shape.x_gates() * size;
}

// Lane `index` of all, as the forward and the backward have it in common.
template <class T>
Lane<T> lane_of(const Call& call, const Weights<T>& weights, const AddedLanes<T>& added, long index,
                const T* x, T* y) {
  const Sizes& s = call.sizes;
  const long width = s.directions * s.outputs, direction = index % s.directions;
  Lane<T> lane{};
  lane.steps = s.steps;
  lane.batch = s.batch;
  lane.inputs = index < s.directions ? s.inputs : width;
  lane.hidden = s.hidden;
  lane.outputs = s.outputs;
  lane.cell = s.cell;
  lane.input_stride = shape_of(s.cell).x_gates() * s.hidden;
  lane.first = call.first.data();
  lane.reverse = direction == 1;
  lane.keep = part_of<bool>(call.keep, direction);
  lane.x = x;
  lane.h0 = part_of<T>(call.h0, index);
  lane.c0 = part_of<Sum<T>>(call.c0, index);
  lane.w_ih = weights.w_ih;
  lane.w_hh = weights.w_hh;
  lane.b_ih = weights.b_ih;
  lane.b_hh = weights.b_hh;
  const CellShape shape = shape_of(s.cell);
  const T* b_hh = weights.b_hh;  // where the lane normalizes, Added has the biases, except for this
  if (call.cell.norm && call.per_lane >= 4 && weights.w_hh) {
    b_hh = data_of<T>(call.weights[index * call.per_lane + 3]);
  }
  if (shape.of_h > 0 && b_hh) lane.b_m = b_hh + shape.sums * s.hidden;
  lane.w_hr = weights.w_hr;
  lane.y = y + direction * s.outputs;
  lane.y_stride = width;
  lane.added = added.of(index);
  return lane;
}

// Scratch of a layer's sweeps.
template <class T>
struct SweepScratch {
  Tensor recurrent, panels;

  SweepScratch(const Plan& plan, Dtype dtype)
      : recurrent(fresh(plan.recurrent, dtype)), panels(fresh(plan.panels, dtype)) {}

  // For the part of the team that begins with a worker, which is 0 or half of all.
  Scratch<T> of(long worker) const {
    return {part_of<T>(recurrent, worker > 0), part_of<T>(panels, worker)};
  }
};

// body(worker, lane, first) for each lane of a layer: abreast, each on its half of the team, whose
// first worker is `first`, or one after another on all of it.
template <class Body>
void for_lanes(const Worker& worker, long lanes, const Plan& plan, const Body& body) {
  if (plan.abreast == 2 && worker.count % 2 == 0) {
    const Worker half = worker.half();
    return body(half, worker.side(), worker.id - half.id);
  }
  for (long lane = 0; lane < lanes; ++lane) {
    if (lane > 0) worker.sync();  // its scratch is the same
    body(worker, lane, 0);
  }
}

// out = the mask of the index-th layer's output times `in`.
template <class T>
void drop_layer(const Kernels<T>& kernels, const Call& call, long index, const T* in, T* out) {
  const Sizes& s = call.sizes;
  const long count = s.rows * s.directions * s.outputs;
  drop(kernels.dropout, call.dropout, count, index * count, in, out);
}

// Multiplies the gradients with respect to that output by the mask.
template <class T>
void drop_gradient(const Kernels<T>& kernels, const Call& call, long index, Sum<T>* dy) {
  const Sizes& s = call.sizes;
  const long count = s.rows * s.directions * s.outputs;
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
