// The weights' gradients sample by sample: a step's rows are those of the samples, as many each, one
// sample's after another's. A worker makes those of whole samples. It copies a sample's dgates to
// where they lie side by side, and then each gradient is the product that it is of all rows.
#pragma once

#include "sweep_backward.h"

namespace fused_lstm::FL_ISA {

// Calls body(place, rows, at) for each place's rows, of `sample` in a whole step, that are among
// `n` of all the sample's; at: the first one's number in `n`. Returns how many rows the sample has.
template <class T, class Body>
FL_INLINE long for_rows_of(const Lane<T>& lane, Range sample, Range n, const Body& body) {
  long before = 0;  // of earlier places
  for (long place = 0; place < lane.steps; ++place) {
    const long first = min(sample.begin, alive(lane, place));
    const long count = min(sample.end, alive(lane, place)) - first;
    const Range own{first + max(n.begin - before, 0), first + min(n.end - before, count)};
    if (own.begin < own.end) body(place, own, before + own.begin - first - n.begin);
    before += count;
  }
  return before;
}

// The rows of a sample, `count`, of a matrix in blocks, in `memory`.
template <class T>
Blocks<T> gathered(const Lane<T>& lane, const Blocks<T>& all, Range sample, long count, T* memory) {
  const Blocks<T> out{memory, all.groups, all.units, count, all.turn};
  for_rows_of(lane, sample, {0, count}, [&](long place, Range rows, long at) {
    const long line = row_of(lane, place) + rows.begin;
    for (long block = 0; block < all.count(); ++block) {
      for (long i = 0; i < rows.end - rows.begin; ++i) {
        store(out.at(block, at + i), load(all.at(block, line + i)));
      }
    }
  });
  return out;
}

template <class T>
void gradients_of(const Lane<T>& lane, const LaneGradient<T>& gradient, Range sample, long count,
                  T* panel) {
  const auto from = [&](const Blocks<T>& all) {
    return gathered(lane, all, sample, count, gradient.scratch.sampled);
  };
  // out = left' times the rows that pack(place, rows, column, panel, at) packs of each place.
  const auto make = [&](const Blocks<T>& left, long columns, T* out, const auto& pack,
                        const auto& each) {
    transposed_product(
        Worker{}, left, columns, out, out, panel,
        [&](Range n, long column, const Panel<T>& right) {
          for_rows_of(lane, sample, n, [&](long place, Range rows, long at) {
            pack(place, rows, column, right, at);
          });
        },
        each);
  };
  const Blocks<T> by_x = from(by_input_of(lane, gradient));
  make(by_x, lane.inputs, gradient.weights.w_ih,
       [&](long place, Range rows, long column, const Panel<T>& right, long at) {
         const T* const x = lane.arguments.x + row_of(lane, place) * lane.inputs;
         pack_rows(x, lane.inputs, rows, column, lane.inputs - column, right, at);
       },
       [&](long block, Range n) {
         if (gradient.weights.b_ih) bias_gradient(by_x, block, n, gradient.weights.b_ih);
       });
  const Blocks<T> by_h =
      lane.cell.apart() ? from(by_recurrent_of(lane, gradient)) : by_x;
  make(by_h, lane.outputs, gradient.weights.w_hh,
       [&](long place, Range rows, long column, const Panel<T>& right, long at) {
         pack_before(lane, place, rows, column, right, at);
       },
       [&](long block, Range n) {
         if (gradient.weights.b_hh) bias_gradient(by_h, block, n, gradient.weights.b_hh);
       });
  if (!lane.weights.w_hr) return;
  make(from(dh_of(lane, gradient)), lane.hidden, gradient.weights.w_hr,
       [&](long place, Range rows, long column, const Panel<T>& right, long at) {
         const long row = row_of(lane, place);
         pack_unprojected(lane, {row + rows.begin, row + rows.end}, column, right, at);
       },
       Nothing{});
}

template <class T>
void sample_gradients(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                      T* panel) {
  const CellShape& shape = lane.cell;
  const long share = lane.batch / gradient.samples;
  const long of_x = shape.x_gates() * lane.hidden, of_h = shape.h_gates() * lane.hidden;
  const Range mine = part(gradient.samples, worker.id, worker.count);
  for (long index = mine.begin; index < mine.end; ++index) {
    LaneGradient<T> own = gradient;
    GradientOfWeights<T>& weights = own.weights;
    weights.w_ih += index * of_x * lane.inputs;
    weights.w_hh += index * of_h * lane.outputs;
    if (weights.b_ih) weights.b_ih += index * of_x;
    if (weights.b_hh) weights.b_hh += index * of_h;
    if (weights.w_hr) weights.w_hr += index * lane.outputs * lane.hidden;
    own.scratch.sampled += worker.id * gradient.scratch.sampled_size;
    const Range sample{index * share, (index + 1) * share};
    const long count = for_rows_of(lane, sample, {0, 0}, [](long, Range, long) {});
    gradients_of(lane, own, sample, count, panel);
  }
}

}  // namespace fused_lstm::FL_ISA
