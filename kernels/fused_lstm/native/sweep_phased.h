// A lane's forward pass in phases (see phases.h), whose weights the call does not pack: they are read as
// they lie where rows are few (sweep_short.h), or were packed before (sweep_prepared.h).
//
// A chunk is its input product, then its steps. A step is the product with its cell; the products
// inside it, or where the lane normalizes the cell; and where h is projected, that product.
#pragma once

#include "sweep_inner.h"

namespace fused_lstm::FL_ISA {

struct LanePhases {
  bool apart;              // the input product is a phase of its own, else the first step's
  long inner;              // meetings before products inside a step
  long of_step, of_chunk;  // phases

  template <class T>
  LanePhases(const Lane<T>& lane, bool projected, bool apart)
      : apart(apart),
        inner(lane.cell.inner ? lane.cell.inner->meetings() : 0),
        of_step(1 + (lane.by_h != nullptr) + inner + projected),
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
    if (lane.given.data) {
      bring_input(worker, lane, rows, lane.input_part);
    } else {
      const WeightShape shape = input_shape(lane);
      Multiply::gates(
          worker, Rows<T>{lane.x + rows.begin * lane.inputs, lane.inputs},
          {0, rows.end - rows.begin}, shape, w_ih, false,
          [&](const Sums<T>& tile, long unit, long) { return load_bias(tile, unit); },
          [&](const Sums<T>& tile, long unit, long row) {
            store_gates(tile, shape.gates, lane.input_part + row * lane.input_stride + unit,
                        lane.input_stride, lane.hidden, lane.hidden - unit);
          });
    }
    draw_masks(worker, lane, begin);
    if (phases.apart) return;
  }
  const long place = begin + at / phases.of_step, kind = at % phases.of_step;
  Sum<T>* const x = lane.input_part + (row_of(lane, place) - rows.begin) * lane.input_stride;
  if (kind == 0) {
    step_forward<Multiply>(worker, lane, place, first_sums(lane, x), w_hh);
    draw_masks(worker, lane, place + 1);
  } else if (kind <= phases.inner) {
    for (long k = 0, met = 0; k < inner_products(lane); ++k) {
      met += lane.cell.inner->meets[k];
      if (met == kind) inner_phase<Multiply>(worker, lane, place, k, x, w_inner(k));
    }
  } else if (kind == 1 && lane.by_h) {
    finish_rows(worker, lane, cell_step<T>(lane, place, nullptr), x);
  } else {
    project<Multiply>(worker, lane, place, w_hr);
  }
}

}  // namespace fused_lstm::FL_ISA
