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

// Before the steps is a phase in which workers make what they share: masks, or x's part of the gates
// where it was made before the call, which they bring in by rows. Else the first step is in one phase
// with the input product, of which a worker has the same units.
template <class T>
FL_INLINE bool shares(const Lane<T>& lane) {
  return lane.added || lane.given.data;
}

template <class T, class E>
long short_phases(const Lane<T>& lane, const Weights<E>& weights) {
  const long of_step = 1 + (lane.by_h != nullptr) + (weights.w_hr != nullptr);
  return shares(lane) + lane.steps * of_step;
}

template <int GATES, class T, class E>
void short_gates(const Worker& worker, const Lane<T>& lane, const Weights<E>& weights, long phase) {
  if (phase == 0) {
    if (lane.given.data) {
      bring_input(worker, lane, {0, lane.first[lane.steps]}, lane.input_part);
    } else {
      short_input<GATES>(worker, lane, weights);
    }
    draw_masks(worker, lane, 0);
    if (shares(lane)) return;
  }
  if (shares(lane)) --phase;
  const long of_step = 1 + (lane.by_h != nullptr) + (weights.w_hr != nullptr);
  const long place = phase / of_step, kind = phase % of_step;
  const T* const x = lane.input_part + row_of(lane, place) * lane.input_stride;
  if (kind == 0) {
    step_forward<Dots<T, E>, GATES>(worker, lane, place, first_sums(lane, x), weights.w_hh);
  } else if (kind == 1 && lane.by_h) {
    finish_rows(worker, lane, cell_step<T>(lane, place, nullptr), x);
  } else {
    project<Dots<T, E>>(worker, lane, place, weights.w_hr);
  }
}

template <class T, class E>
void short_forward(const Worker& worker, const Lane<T>& lane, const Weights<E>& weights,
                   long phase) {
  with_gates(lane, [&](auto gates) { short_gates<gates.value>(worker, lane, weights, phase); });
}

template <class T, class E>
constexpr PhasedSweep<T, Weights<E>> short_sweep = {short_phases<T, E>, short_forward<T, E>};

}  // namespace fused_lstm::FL_ISA
