// A lane's forward pass where rows are few: nothing is packed or widened beforehand, weights are
// read as they lie (see product/dots.h), those of the input once and the recurrent ones once a
// step.
#pragma once

#include "product/dots.h"
#include "sweep_forward.h"

namespace fused_lstm::FL_ISA {

// input_part[n] = x[n] w_ih' + b, of all rows.
template <class T, class E>
void short_input(const Worker& worker, const Lane<T>& lane, const Weights<E>& weights) {
  const long hidden = lane.hidden;
  Dots<T, E>::gates(
      worker, Rows<T>{lane.x, lane.inputs}, {0, lane.first[lane.steps]}, lane.inputs, hidden,
      weights.w_ih, false,
      [&](auto& tile, long unit, long) {
        for (auto& row : tile.sum) {
          for (long gate = 0; gate < 4; ++gate) {
            const long at = gate * hidden + unit, width = min(hidden - unit, W<T>);
            row[gate] = weights.b_ih ? widened<T>(weights.b_ih + at, width) +
                                           widened<T>(weights.b_hh + at, width)
                                     : Vec<T>{};
          }
        }
      },
      [&](const auto& tile, long unit, long row) {
        store_gates(tile, lane.input_part + row * 4 * hidden + unit, hidden,
                    min(hidden - unit, W<T>));
      });
}

template <class T, class E>
void short_forward(const Worker& worker, const Lane<T>& lane, const Weights<E>& weights) {
  // No meeting before the steps: a worker has the same units in both. (It shares masks.)
  short_input(worker, lane, weights);
  draw_masks(worker, lane, 0);
  if (lane.added) worker.sync();
  for (long place = 0; place < lane.steps; ++place) {
    const T* const input_part = lane.input_part + row_of(lane, place) * 4 * lane.hidden;
    step_forward<Dots<T, E>>(worker, lane, place, first_sums(lane, input_part), weights.w_hh);
    worker.sync();
    normalize(worker, lane, place, input_part);
    if (!weights.w_hr) continue;
    project<Dots<T, E>>(worker, lane, place, weights.w_hr);
    worker.sync();
  }
}

}  // namespace fused_lstm::FL_ISA
