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

// Returns what product k multiplies, given row 0 of what is saved.
template <class T>
FL_INLINE Rows<T> fed_of(const Lane<T>& lane, long k, const T* gates) {
  return {gates + lane.cell.inner->fed[k] * lane.inner.widest, saved_width(lane)};
}

// --- forwards ---

// Loads what the sums of R h begin with: x's part of a gate, or the bias of one that is of h alone.
template <class T>
FL_INLINE Place<T> load_begins(const Sums<T>& tile, const Lane<T>& lane, long gates,
                               const Sum<T>* input_part, long unit, long row) {
  const long hidden = lane.hidden, sums = lane.cell.sums;
  Vec<T>* sum = tile.data;
  for (long r = 0; r < tile.rows; ++r) {
    const Sum<T>* const x = input_part + (row + r) * lane.input_stride;
    for (long first = unit; first < unit + tile.blocks(gates) * W<T>; first += W<T>) {
      for (long gate = 0; gate < gates; ++gate) {
        const long at = gate * hidden + first, width = hidden - first;
        if (gate < sums) {
          *sum++ = load(x + at, width);
        } else {
          *sum++ = lane.b_m ? load(lane.b_m + at - sums * hidden, width) : Vec<T>{};
        }
      }
    }
  }
  return place_of(tile);
}

// A step from R h to what the first product multiplies, where a tile has all gates of h. Weights are
// as Multiply takes them: packed, or as they lie.
template <class Multiply, class T, class E>
void first_phase(const Worker& worker, const Lane<T>& lane, long place, const Sum<T>* input_part,
                 const E* weight) {
  CellStep<T> step = cell_step(lane, place, input_part);
  const WeightShape shape = recurrent_shape(lane);
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    step.c = before.c;
    const auto left = Multiply::ready(worker, lane, before.fed, lane.outputs, rows);
    Multiply::gates(
        worker, left, rows, shape, weight, place % 2,
        [&](const Sums<T>& tile, long unit, long row) {
          return load_begins(tile, lane, shape.gates, input_part, unit, row);
        },
        [&](const Sums<T>& tile, long unit, long row) {
          finish_cell(step, unit, row, tile, shape.gates);
        });
  });
}

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

// The steps of such a lane, for `sweep`.
template <class T>
struct StepsInPhases {
  static constexpr bool meets = true;
  const bool tiles;  // hold all gates of h; else R h is brought to memory first
  const WeightShape recurrent;
  T* const packed;    // w_hh; then the products' weights, one behind the other
  T* const products;
  T* behind;          // all of them

  StepsInPhases(const Worker& worker, const Lane<T>& lane, T* memory)
      : tiles(lane.cell.h_gates() > 0 && lane.cell.h_gates() <= 4),
        recurrent(tiles ? recurrent_shape(lane) : flat_recurrent(lane)),
        packed(memory),
        products(memory + Fma<T>::gates_size(recurrent)),
        behind(products) {
    if (recurrent.units > 0) Fma<T>::pack_gates_of(worker, lane.w_hh, recurrent, packed);
    for (long k = 0; k < lane.cell.inner->count; ++k) {
      Fma<T>::pack_gates_of(worker, lane.w_inner[k], inner_shape(lane, k), behind);
      behind += Fma<T>::gates_size(inner_shape(lane, k));
    }
  }

  void input(const Worker& worker, const Lane<T>& lane, Range rows, Sum<T>* out, T* panel) const {
    input_product(worker, lane, flat_input(lane), rows, out, panel);
  }

  void run(const Worker& worker, const Lane<T>& lane, long place, Sum<T>* x) const {
    if (tiles) {
      first_phase<Fma<T>>(worker, lane, place, x, packed);
    } else {
      if (recurrent.units > 0) {
        recurrent_product(worker, lane, recurrent, place, packed);
        worker.sync();
      }
      finish_part(worker, lane, place, x);
    }
    const T* weight = products;
    for (long k = 0; k < lane.cell.inner->count; ++k) {
      if (lane.cell.inner->meets[k]) worker.sync();
      inner_phase<Fma<T>>(worker, lane, place, k, x, weight);
      weight += Fma<T>::gates_size(inner_shape(lane, k));
    }
  }
};

template <class T>
void sweep_forward(const Worker& worker, const Lane<T>& lane, const Scratch<T>& scratch) {
  if (lane.cell.inner) return sweep<StepsInPhases<T>>(worker, lane, scratch);
  if (!lane.cell.in_tiles()) return sweep<StepsAny<T>>(worker, lane, scratch);
  sweep<StepsInTiles<T>>(worker, lane, scratch);
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
