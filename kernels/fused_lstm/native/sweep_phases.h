// A lane's forward pass in phases (see phases.h), whose weights the call does not pack: they are read as
// they lie where rows are few (`short_sweep`), or were packed before (sweep_prepared.h).
//
// A chunk is its input product, then its steps. A step is the product with its cell; the products
// inside it, or where the lane normalizes the cell; and where h is projected, that product.
#pragma once

#include "cells/layer_norm.h"
#include "product/dots.h"
#include "sweep_step.h"

namespace fused_lstm::FL_ISA {

struct LanePhases {
  bool apart;              // the input product is a phase of its own, else the first step's
  long inner;              // meetings before products inside a step
  long of_step, of_chunk;  // phases

  template <class T>
  LanePhases(const Lane<T>& lane, bool projected, bool apart)
      : apart(apart),
        inner(lane.cell.inner ? lane.cell.inner->meetings() : 0),
        of_step(1 + (lane.scratch.by_h != nullptr) + inner + projected),
        of_chunk(apart + lane.chunk * of_step) {}

  template <class T>
  long count(const Lane<T>& lane) const {
    return apart * divide_up(lane.steps, lane.chunk) + lane.steps * of_step;
  }
};

// Runs a phase. Weights are as Multiply takes them; w_inner(k): that of product k inside a step;
// load_bias(tile, unit): what the sums of the input product begin with.
template <class Multiply, class T, class W, class Bias, class Inner>
void run_phase(const Worker& worker, const Lane<T>& lane, const LanePhases& phases, long phase,
               const W& w_ih, const W& w_hh, const W& w_hr, const Inner& w_inner,
               const Bias& load_bias) {
  const long begin = phase / phases.of_chunk * lane.chunk;
  const long at = phase % phases.of_chunk - phases.apart;
  const Range rows = rows_of(lane, begin, min(begin + lane.chunk, lane.steps));
  if (at == (phases.apart ? -1 : 0)) {
    if (lane.arguments.x_part.data) {
      bring_input(worker, lane, rows, lane.scratch.input_part);
    } else {
      const WeightShape shape = input_shape(lane);
      Multiply::gates(
          worker, Rows<T>{lane.arguments.x + rows.begin * lane.inputs, lane.inputs},
          {0, rows.end - rows.begin}, shape, w_ih, false,
          [&](const Sums<T>& tile, long unit, long) { return load_bias(tile, unit); },
          [&](const Sums<T>& tile, long unit, long row) {
            store_gates(tile, shape.gates, lane.scratch.input_part + row * lane.scratch.input_stride + unit,
                        lane.scratch.input_stride, lane.hidden, lane.hidden - unit);
          });
    }
    draw_masks(worker, lane, begin);
    if (phases.apart) return;
  }
  const long place = begin + at / phases.of_step, kind = at % phases.of_step;
  Sum<T>* const x = lane.scratch.input_part + (row_of(lane, place) - rows.begin) * lane.scratch.input_stride;
  if (kind == 0) {
    step_forward<Multiply>(worker, lane, place, first_sums(lane, x), w_hh);
    if (lane.cell.inner) early_phases(worker, lane, place, x);
    draw_masks(worker, lane, place + 1);
  } else if (kind <= phases.inner) {
    for (long k = 0, met = 0; k < lane.cell.phases_inside(); ++k) {
      met += lane.cell.inner->meets[k];
      if (met != kind) continue;
      if (lane.cell.inner->is_product(k)) {
        inner_phase<Multiply>(worker, lane, place, k, x, w_inner(k));
      } else {
        const long end = end_of_sums(*lane.cell.inner, k);
        sum_phases(worker, lane, place, k, end, x);
        k = end - 1;
      }
    }
  } else if (kind == 1 && lane.scratch.by_h) {
    finish_rows(worker, lane, cell_step<T>(lane, place, nullptr), x);
  } else {
    project<Multiply>(worker, lane, place, w_hr);
  }
}

// --- where rows are few ---
//
// Nothing is packed or widened beforehand: weights are read as they lie (see product/dots.h), those of the
// input once and the recurrent ones once a step.

// The input product is a phase of its own where workers make what they share in it: masks, or x's part of
// the gates where it was made before the call, which they bring in by rows. Else a worker has the
// same units in it and in the first step.
template <class T, class E>
LanePhases phases_of(const Lane<T>& lane, const Weights<E>& weights) {
  return {lane, weights.w_hr != nullptr, lane.options || lane.arguments.x_part.data};
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
