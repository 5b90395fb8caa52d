// Sweeps of a lane whose cell has products inside its step (see InnerProducts): a step is R h, pointwise
// work, a product of a value of the step, pointwise work, and so on. Each product's tiles are finished
// where they are made, as those of R h, by the function of the phase; the workers meet between two phases.
// Workers meet once for two products that do not wait for each other.
//
// Backwards from the gradients by what a product made come those by what it multiplied, with which the
// next function begins. As dgates they are kept for all steps, and the weights' gradients are one product
// each.
#pragma once

#include "product/large.h"
#include "product/pair.h"
#include "sweep_any.h"

namespace fused_lstm::FL_ISA {

// The functions of the phases around product k.
template <class T>
FL_INLINE CellFunctions functions_around(const Lane<T>& lane, long k) {
  return lane.cell.inner->functions[static_cast<long>(factors_of<T>)][k];
}

template <class T>
FL_INLINE WeightShape inner_shape(const Lane<T>& lane, long k) {
  return {lane.cell.inner->columns[k], lane.inner.units[k], lane.inner.depth[k]};
}

template <class T>
FL_INLINE long inner_products(const Lane<T>& lane) {
  return lane.cell.inner ? lane.cell.inner->count : 0;
}

// Returns what product k multiplies, given row 0 of what is saved.
template <class T>
FL_INLINE Rows<T> fed_of(const Lane<T>& lane, long k, const T* gates) {
  return {gates + lane.cell.inner->fed[k] * lane.inner.widest, saved_width(lane)};
}

// --- forwards ---

// A step from product k to what the next one multiplies, or to its end.
template <class Multiply, class T, class E>
void inner_phase(const Worker& worker, const Lane<T>& lane, long place, long k,
                 const Sum<T>* input_part, const E* weight) {
  CellStep<T> step = cell_step(lane, place, input_part);
  step.finish = reinterpret_cast<Finish<T>>(functions_around(lane, k).finish);
  const WeightShape shape = inner_shape(lane, k);
  step.hidden = shape.units;
  const Rows<T> fed = fed_of<T>(lane, k, step.gates);
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    step.c = before.c;
    const auto left = Multiply::ready(worker, lane, fed, shape.depth, rows);
    Multiply::gates(
        worker, left, rows, shape, weight, (place + k) % 2,
        [](const Sums<T>&, long, long) { return Place<T>{}; },
        [&](const Sums<T>& tile, long unit, long row) {
          finish_cell(step, unit, row, tile, shape.gates);
        });
  });
}

// --- all steps ---

// How a lane computes its steps, and the weights that it packs for them.
template <class T>
struct Steps {
  const bool few;    // inputs: a step makes their product too
  const bool tiles;  // hold all gates of h; else R h is brought to memory first
  const WeightShape recurrent;
  const bool meets;
  const Packed<T> packed;
  T* behind;  // w_hh and what else a step multiplies with

  Steps(const Worker& worker, const Lane<T>& lane, T* memory)
      : few(lane.cell.in_tiles() && !lane.given.data && lane.inputs <= few_inputs &&
            !lane.not_reset && !lane.by_h && !lane.w_hr),
        tiles(lane.cell.in_tiles() || (lane.cell.h_gates() > 0 && lane.cell.h_gates() <= 4 && !lane.by_h)),
        recurrent(tiles ? recurrent_shape(lane) : flat_recurrent(lane)),
        meets(recurrent.units > 0 || lane.options || lane.cell.inner),
        packed{memory, memory + Fma<T>::gates_size(recurrent)},
        behind(packed.input) {
    if (recurrent.units > 0) Fma<T>::pack_gates_of(worker, lane.w_hh, recurrent, memory);
    if (few) Fma<T>::pack_gates_of(worker, lane.w_ih, input_shape(lane), packed.input);
    for (long k = 0; k < inner_products(lane); ++k) {
      Fma<T>::pack_gates_of(worker, lane.w_inner[k], inner_shape(lane, k), behind);
      behind += Fma<T>::gates_size(inner_shape(lane, k));
    }
  }

  void input(const Worker& worker, const Lane<T>& lane, Range rows, Sum<T>* out, T* panel) const {
    const WeightShape shape = lane.cell.in_tiles() ? input_shape(lane) : flat_input(lane);
    if (!few) input_product(worker, lane, shape, rows, out, panel);
  }

  void run(const Worker& worker, const Lane<T>& lane, long place, Sum<T>* x) const {
    if (few) return whole_step(worker, lane, place, x, packed);
    if (tiles) {
      step_forward<Fma<T>>(worker, lane, place, first_sums(lane, x), packed.recurrent);
    } else {
      if (recurrent.units > 0) recurrent_product(worker, lane, recurrent, place, packed.recurrent);
      if (lane.by_h) return;
      if (recurrent.units > 0) worker.sync();
      finish_part(worker, lane, place, x);
    }
    const T* weight = packed.input;
    for (long k = 0; k < inner_products(lane); ++k) {
      if (lane.cell.inner->meets[k]) worker.sync();
      inner_phase<Fma<T>>(worker, lane, place, k, x, weight);
      weight += Fma<T>::gates_size(inner_shape(lane, k));
    }
  }
};

// Runs a lane.
template <class T>
void sweep_forward(const Worker& worker, const Lane<T>& lane, const Scratch<T>& scratch) {
  const Steps<T> steps(worker, lane, scratch.recurrent);
  if (lane.w_hr) {
    Fma<T>::pack_transposed_of(worker, lane.w_hr, lane.hidden, lane.outputs, steps.behind);
  }
  draw_masks(worker, lane, 0);
  for (long begin = 0; begin < lane.steps; begin += lane.chunk) {
    const long end = min(begin + lane.chunk, lane.steps);
    const Range rows = rows_of(lane, begin, end);
    Sum<T>* const input = input_of(lane, rows);
    if (lane.given.data) {
      bring_input(worker, lane, rows, input);
    } else {
      steps.input(worker, lane, rows, input, panel_of(worker, scratch.panels));
    }
    worker.sync();
    for (long place = begin; place < end; ++place) {
      Sum<T>* const x = input + (row_of(lane, place) - rows.begin) * lane.input_stride;
      steps.run(worker, lane, place, x);
      draw_masks(worker, lane, place + 1);
      if (steps.meets) worker.sync();
      if (lane.by_h) {  // whose products are normalized, row by row
        finish_rows(worker, lane, cell_step<T>(lane, place, nullptr), x);
        worker.sync();
      }
      if (!lane.w_hr) continue;
      project<Fma<T>>(worker, lane, place, steps.behind);
      worker.sync();
    }
    if (!steps.meets) worker.sync();  // the next chunk's input is written over this one's
  }
}

// --- backwards ---

// Gradients by what product k made.
template <class T>
FL_INLINE Blocks<T> by_inner_of(const Lane<T>& lane, const LaneGradient<T>& gradient, long k) {
  return made_by(lane, k, gradient.by_inner[k]);
}

// Packs the products' weights.
template <class T>
void pack_inner(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                T* packed) {
  for (long k = 0; k < lane.cell.inner->count; ++k) {
    const Blocks<T> made = by_inner_of(lane, gradient, k);
    clear_rest(worker, made);
    Fma<T>::pack_columns_of(worker, lane.w_inner[k], made, lane.inner.depth[k], packed);
    packed += Fma<T>::columns_size(inner_shape(lane, k));
  }
}

// From the gradients by what the last product made to those by all gates.
template <class T>
void inner_back(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                CellStepBack<T> step, const T* packed, Sum<T>* sums) {
  const long count = lane.cell.inner->count;
  for (long k = 0; k < count; ++k) packed += Fma<T>::columns_size(inner_shape(lane, k));
  for (long k = count - 1; k >= 0; --k) {
    packed -= Fma<T>::columns_size(inner_shape(lane, k));
    if (lane.cell.inner->meets_back[k]) worker.sync();
    step.hidden = lane.inner.depth[k];
    step.finish = reinterpret_cast<FinishBack<T>>(functions_around(lane, k).finish_back);
    Fma<T>::columns(worker, by_inner_of(lane, gradient, k), step.line,
                    {0, alive(lane, step.place)}, step.hidden, packed, (step.place + k) % 2, sums,
                    [&](const Sums<T>& tile, long first, long row) {
      step.finish(step, first, row, tile.rows, tile.vectors, tile.data);
    });
  }
}

// Returns where the sums of a gradient `out` lie between parts, behind `before` elements of others.
template <class T>
FL_INLINE Sum<T>* partial_of(const LaneGradient<T>& gradient, T* out, long before) {
  if constexpr (deep<T> == 1) return out;
  return gradient.partial ? gradient.partial + before : nullptr;
}

// The gradients of the products' weights; behind: the elements of other gradients before them.
template <class T>
void inner_gradients(const Worker& worker, const Lane<T>& lane, const LaneGradient<T>& gradient,
                     long behind, T* panel) {
  for (long k = 0; k < lane.cell.inner->count; ++k) {
    const Rows<T> fed = fed_of(lane, k, lane.gates);
    const WeightShape shape = inner_shape(lane, k);
    T* const out = gradient.dw_inner[k];
    transposed_product(worker, by_inner_of(lane, gradient, k), shape.depth, out,
                       partial_of(gradient, out, behind), panel,
                       [&](Range n, long column, const Panel<T>& right) {
      pack_rows(fed.data, fed.stride, n, column, shape.depth - column, right);
    });
    behind += shape.gates * shape.units * shape.depth;
  }
}

}  // namespace fused_lstm::FL_ISA
