// A lane's forward pass with weights that were packed before the call (product/words.h).
#pragma once

#include "product/words.h"
#include "sweep_phases.h"

namespace fused_lstm::FL_ISA {

// The input product is a phase of its own where its rows are divided. Else a worker has the same units in
// it and in the first step.
template <class F>
LanePhases phases_of(const Lane<float>& lane, const PreparedWeights& weights) {
  const long rows = min(lane.chunk * lane.batch, lane.arguments.first[lane.steps]);
  return {lane, weights.w_hr.panels != nullptr, rows > F::tallest && !lane.input_in_step};
}

// Runs a whole step.
template <class F>
void whole_phase(const Worker& worker, const Lane<float>& lane, const PreparedWeights& weights,
                 long place) {
  if (place == 0) draw_masks(worker, lane, 0);
  whole_step<Ready<F>>(worker, lane, place, lane.scratch.input_part, &weights.w_ih, &weights.w_hh);
  draw_masks(worker, lane, place + 1);
}

template <class F>
long prepared_phases(const Lane<float>& lane, const PreparedWeights& weights) {
  return phases_of<F>(lane, weights).count(lane);
}

template <class F>
void prepared_lane(const Worker& worker, const Lane<float>& lane, const PreparedWeights& weights,
                   long phase) {
  if constexpr (Ready<F>::makes_two) {
    if (lane.input_in_step) return whole_phase<F>(worker, lane, weights, phase);
  }
  run_phase<Ready<F>>(
      worker, lane, phases_of<F>(lane, weights), phase, &weights.w_ih, &weights.w_hh,
      &weights.w_hr, [&](long k) { return &weights.w_inner[k]; },
      [&](const Sums<float>& tile, long unit) {
        return load_bias(tile, lane, tile.vectors, lane.hidden, unit);
      });
}

template <class F>
constexpr PreparedSweep prepared_of = {prepared_phases<F>, prepared_lane<F>, nullptr};

// The files of VNNI and of bfloat16 define one kind of weight, that of AMX two; every other file defines
// the remaining kinds.
#if !defined(FL_VNNI) && !defined(FL_BF16)
extern const PreparedSweep float32_sweep, int8_weights_sweep;
constexpr PreparedSweep float32_sweep = prepared_of<Float32>;
constexpr PreparedSweep int8_weights_sweep = prepared_of<Int8Weights>;
#endif
#if !defined(FL_VNNI) || defined(FL_UNIT)
extern const PreparedSweep bfloat16_sweep;
constexpr PreparedSweep bfloat16_sweep = prepared_of<Bfloat16>;
#endif
#if defined(FL_VNNI) || defined(FL_UNIT) || FL_BYTES != 64
extern const PreparedSweep int8_sweep;
constexpr PreparedSweep int8_sweep = prepared_of<Int8>;
#endif

}  // namespace fused_lstm::FL_ISA
