// A lane's forward pass where rows are few: nothing is packed or widened beforehand, weights are
// read as they lie (see product/dots.h), those of the input once and the recurrent ones once a
// step.
#pragma once

#include "product/dots.h"
#include "sweep_forward.h"

namespace fused_lstm::FL_ISA {

// input_part[n] = x[n] w_ih' + b, of all rows.
template <int GATES, class T, class E>
void short_input(const Worker& worker, const Lane<T>& lane, const Weights<E>& weights) {
  const long hidden = lane.hidden;
  Dots<T, E>::template gates<GATES>(
      worker, Rows<T>{lane.x, lane.inputs}, {0, lane.first[lane.steps]}, input_shape(lane),
      weights.w_ih, false,
      [&](auto& tile, long unit, long) {
        const long width = min(hidden - unit, W<T>);
        for (long gate = 0; gate < GATES; ++gate) {
          const long at = gate * hidden + unit;
          Vec<T> bias = weights.b_ih ? widened<T>(weights.b_ih + at, width) : Vec<T>{};
          const bool apart = gate == GATES - 1 && lane.b_m;
          if (weights.b_hh && !apart) bias += widened<T>(weights.b_hh + at, width);
          for (auto& row : tile.sum) row[gate] = bias;
        }
      },
      [&](const auto& tile, long unit, long row) {
        store_gates<GATES>(tile, lane.input_part + row * lane.input_stride + unit,
                           lane.input_stride, hidden, min(hidden - unit, W<T>));
      });
}

template <int GATES, class T, class E>
void short_gates(const Worker& worker, const Lane<T>& lane, const Weights<E>& weights) {
  // No meeting before the steps: a worker has the same units in both. (It shares masks.)
  short_input<GATES>(worker, lane, weights);
  draw_masks(worker, lane, 0);
  if (lane.added) worker.sync();
  for (long place = 0; place < lane.steps; ++place) {
    const T* const x = lane.input_part + row_of(lane, place) * lane.input_stride;
    step_forward<Dots<T, E>, GATES>(worker, lane, place, first_sums(lane, x), weights.w_hh);
    worker.sync();
    normalize(worker, lane, place, x);
    if (!weights.w_hr) continue;
    project<Dots<T, E>>(worker, lane, place, weights.w_hr);
    worker.sync();
  }
}

template <class T, class E>
void short_forward(const Worker& worker, const Lane<T>& lane, const Weights<E>& weights) {
  with_gates(lane, [&](auto gates) { short_gates<gates.value>(worker, lane, weights); });
}

}  // namespace fused_lstm::FL_ISA
