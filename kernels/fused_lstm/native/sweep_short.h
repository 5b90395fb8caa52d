// A lane's forward pass where rows are few: nothing is packed or widened beforehand, weights are
// read as they lie (see product/dots.h), those of the input once and the recurrent ones once a
// step.
#pragma once

#include "product/dots.h"
#include "sweep_phased.h"

namespace fused_lstm::FL_ISA {

// The input product is a phase of its own where workers make what they share in it: masks, or x's part of
// the gates where it was made before the call, which they bring in by rows. Else a worker has the
// same units in it and in the first step.
template <class T, class E>
LanePhases phases_of(const Lane<T>& lane, const Weights<E>& weights) {
  return {lane, weights.w_hr != nullptr, lane.options || lane.given.data};
}

template <class T, class E>
long short_phases(const Lane<T>& lane, const Weights<E>& weights) {
  return phases_of(lane, weights).count(lane);
}

template <class T, class E>
void short_forward(const Worker& worker, const Lane<T>& lane, const Weights<E>& weights,
                   long phase) {
  const auto load_bias = [&](const Sums<T>& tile, long unit) {  // of E, which the lane's are not
    const long gates = tile.vectors, width = min(lane.hidden - unit, W<T>);
    for (long gate = 0; gate < gates; ++gate) {
      const long at = gate * lane.hidden + unit;
      Vec<T> bias = weights.b_ih ? widened<T>(weights.b_ih + at, width) : Vec<T>{};
      if (weights.b_hh && gate < lane.cell.sums) bias += widened<T>(weights.b_hh + at, width);
      tile.data[gate] = bias;
    }
    return Place<T>{place_of(tile).data, 0, W<T>};
  };
  run_phase<Dots<T, E>>(worker, lane, phases_of(lane, weights), phase, weights.w_ih, weights.w_hh,
                        weights.w_hr, [&](long k) { return weights.w_inner[k]; }, load_bias);
}

template <class T, class E>
constexpr PhasedSweep<T, Weights<E>> short_sweep = {short_phases<T, E>, short_forward<T, E>, nullptr};

}  // namespace fused_lstm::FL_ISA
