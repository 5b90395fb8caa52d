// A lane's forward pass: the input product of many steps at once, then its steps, one after another (see
// sweep_step.h). Where a tile has not all gates of h (more than four, or a layer norm of them), R h is
// brought to memory first.
#pragma once

#include "cells/layer_norm.h"
#include "sweep_step.h"

namespace fused_lstm::FL_ISA {

// Returns the elements of a lane's packed recurrent weights; where its steps make W x too, of those of its
// `inputs`; if h is projected, of the projection's.
template <class T>
long recurrent_size(const WeightShape& recurrent, long inputs, bool projected) {
  const long hidden = recurrent.units, outputs = recurrent.depth;
  const long forward =
      Fma<T>::gates_size(recurrent) + Fma<T>::gates_size({recurrent.gates, hidden, inputs});
  const long backward = Fma<T>::columns_size(recurrent);
  const long projection =
      max(Fma<T>::columns_size({1, hidden, outputs}), Fma<T>::columns_size({1, outputs, hidden}));
  return max(forward, backward) + (projected ? projection : 0);
}

// --- the input product: gates[n] = x[n] W_ih' + b for the rows n of `chunk` steps ---

// Returns the rows as a matrix unit reads them: the workers share them out.
template <class T>
Rows<T> ready_inputs(const Worker& worker, const Lane<T>& lane, Rows<T> x, long count) {
  if constexpr (by_unit<T>) {
    const long stride = ready_stride<T>(lane.inputs);
    const Range mine = part(count, worker.id, worker.count);
    make_ready(x.data + mine.begin * x.stride, x.stride, mine.end - mine.begin, lane.inputs,
               lane.scratch.ready + mine.begin * stride);
    worker.sync();
    return {lane.scratch.ready, stride};
  } else {
    return x;
  }
}

// Makes the input product of the rows `rows`; the first one goes to `gates`. All gates' columns are one
// matrix's here, whichever gate they are of.
template <class T>
void input_product(const Worker& worker, const Lane<T>& lane, Range rows, Sum<T>* gates, T* panel) {
  const WeightShape shape{1, lane.cell.x_gates() * lane.hidden, lane.inputs};
  const long count = rows.end - rows.begin, stride = lane.scratch.input_stride;
  const Rows<T> given{lane.arguments.x + rows.begin * lane.inputs, lane.inputs};
  const Rows<T> x = ready_inputs(worker, lane, given, count);
  UnitScope scope;
  TileMemory<T> memory;
  const long vectors = blocks_of<T>(shape.units);
  for_shares(worker, count, vectors, plain_panels(vectors), plain_tile.rows, false,
             [&](const Share& share) {
    const long column = share.first * W<T>, width = shape.units - column;
    for (long first = 0; first < lane.inputs; first += panel_depth<T>) {
      const long depth = min(lane.inputs - first, panel_depth<T>);
      pack_gates(lane.weights.w_ih, shape, column, share.vectors, first, depth, panel);
      for_heights(plain_tile.rows, share, {0, count}, [&](long height, long row) {
        const Sums<T> tile = memory.of(height, share.vectors);
        Sum<T>* const target = gates + row * stride + column;
        const T* const left = x.data + row * x.stride + first;
        scope.configure(height);
        const Place<T> from =
            first > 0 ? load_gates(tile, 1, target, stride, shape.units, width)
                      : load_bias(tile, lane, 1, shape.units, column);
        if constexpr (by_unit<T>) {
          bring(tile, from);
          multiply_ready(tile, left, x.stride, depth, panel);
        } else {
          const Place<T> to = {target, stride, W<T>};
          const bool all = tile.vectors * W<T> <= width;  // exist
          multiply_rows(tile, from, all ? to : place_of(tile), left, x.stride, depth, panel);
          if (all) return;
        }
        store(tile, target, stride, width);
      });
    }
  });
}

// Returns where x's part of the gates of a chunk's rows goes.
template <class T>
FL_INLINE Sum<T>* input_of(const Lane<T>& lane, Range rows) {
  return lane.scratch.input_part + (lane.in_place ? rows.begin * lane.scratch.input_stride : 0);
}

// --- a step whose gates of h do not all lie in a tile ---
//
// R h is brought to memory, all gates' rows as one matrix, and the cell reads it there, after one more
// meeting of the workers. If no gate has a part by h, there is no product, and no meeting within a chunk: a
// worker keeps its rows and units.

// Rows of a step by blocks of units.
struct Part {
  Range rows, blocks;
};

// A worker's part of any step: blocks where there are enough, else rows.
template <class T>
FL_INLINE Part part_of_steps(const Worker& worker, const Lane<T>& lane) {
  const long blocks = blocks_of<T>(lane.hidden);
  if (blocks >= worker.count) return {{0, lane.batch}, part(blocks, worker.id, worker.count)};
  return {part(lane.batch, worker.id, worker.count), {0, blocks}};
}

// From x's part of a step's gates, and h's in lane.scratch.product, to the cell's results.
template <class T>
void finish_part(const Worker& worker, const Lane<T>& lane, long place, const Sum<T>* input_part) {
  constexpr long tallest = 8;  // rows at once, whose sums lie in the L1 cache
  const CellShape& shape = lane.cell;
  const long hidden = lane.hidden, gates = shape.h_gates();
  const Part mine = part_of_steps(worker, lane);
  begin_sums(worker, lane, false);
  CellStep<T> step = cell_step(lane, place, input_part);
  step.totals = totals_of(lane, worker.id);
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    step.c = before.c;
    const long end = min(rows.end, mine.rows.end);
    for (long block = mine.blocks.begin; block < mine.blocks.end; ++block) {
      const long unit = block * W<T>, width = min(hidden - unit, W<T>);
      for (long first = max(rows.begin, mine.rows.begin); first < end; first += tallest) {
        const long count = min(end - first, tallest);
        Vec<T> sums[tallest * most_gates];
        for (long r = 0; r < count; ++r) {
          const Sum<T>* const x = input_part + (first + r) * lane.scratch.input_stride + unit;
          const Sum<T>* const h = lane.scratch.product + (first + r) * gates * hidden + unit;
          for (long gate = 0; gate < gates; ++gate) {
            const long m = gate - shape.sums;
            Vec<T> other = {};
            if (m < 0) {
              other = load(x + gate * hidden, width);
            } else if (lane.weights.b_m) {
              other = load(lane.weights.b_m + m * hidden + unit, width);
            }
            sums[r * gates + gate] = load(h + gate * hidden, width) + other;
          }
        }
        step.finish(step, unit, first, count, 1, sums);
      }
    }
  });
}

// Stores sums of a tile to where h w_hh' of a place's row lies; apart, so that they stay in registers
// until then.
template <class T>
FL_APART void keep_product(const Lane<T>& lane, long place, long columns, long column, long row,
                           long rows, long vectors, const Vec<T>* sums) {
  for (long b = row; b < row + rows; ++b) {
    Sum<T>* const of_row = lane.scratch.by_h ? by_h_of(lane, place, b) : lane.scratch.product + b * columns;
    Sum<T>* const to = of_row + column;
    for (long n = 0; n < vectors; ++n) store(to + n * W<T>, *sums++, columns - column - n * W<T>);
  }
}

// h w_hh' of a step, to lane.scratch.product, or where the lane normalizes it to lane.scratch.by_h.
template <class T>
void recurrent_product(const Worker& worker, const Lane<T>& lane, const WeightShape& shape,
                       long place, const T* packed) {
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    Fma<T>::gates(
        worker, Fma<T>::ready(worker, lane, before.fed, lane.outputs, rows), rows, shape, packed, place % 2,
        [](const Sums<T>&, long, long) { return Place<T>{}; },
        [&](const Sums<T>& tile, long unit, long row) {
          keep_product(lane, place, shape.units, unit, row, tile.rows, tile.vectors, tile.data);
        });
  });
}

// Weights of all gates as one matrix.
template <class T>
FL_INLINE WeightShape flat_recurrent(const Lane<T>& lane) {
  return {1, lane.cell.h_gates() * lane.hidden, lane.outputs};
}

// --- all steps ---

// How a lane computes its steps, and the weights that it packs for them.
template <class T>
struct Steps {
  const bool tiles;  // hold all gates of h; else R h is brought to memory first
  const WeightShape recurrent;
  const bool meets;
  const Packed<T> packed;
  T* behind;  // w_hh and what else a step multiplies with

  Steps(const Worker& worker, const Lane<T>& lane, T* memory)
      : tiles(lane.cell.in_tiles() ||
              (lane.cell.h_gates() > 0 && lane.cell.h_gates() <= 4 && !lane.scratch.by_h)),
        recurrent(tiles ? recurrent_shape(lane) : flat_recurrent(lane)),
        meets(recurrent.units > 0 || lane.options || lane.cell.inner),
        packed{memory, memory + Fma<T>::gates_size(recurrent)},
        behind(packed.input) {
    if (recurrent.units > 0) Fma<T>::pack_gates_of(worker, lane.weights.w_hh, recurrent, memory);
    if (lane.input_in_step) Fma<T>::pack_gates_of(worker, lane.weights.w_ih, input_shape(lane), packed.input);
    for (long k = 0; k < lane.cell.phases_inside(); ++k) {
      if (!lane.cell.inner->is_product(k)) continue;
      Fma<T>::pack_gates_of(worker, lane.weights.w_inner[k], inner_shape(lane, k), behind);
      behind += Fma<T>::gates_size(inner_shape(lane, k));
    }
  }

  void input(const Worker& worker, const Lane<T>& lane, Range rows, Sum<T>* out, T* panel) const {
    if (!lane.input_in_step) input_product(worker, lane, rows, out, panel);
  }

  void run(const Worker& worker, const Lane<T>& lane, long place, Sum<T>* x) const {
    if (lane.input_in_step) return whole_step<Fma<T>>(worker, lane, place, x, packed.input, packed.recurrent);
    if (tiles) {
      step_forward<Fma<T>>(worker, lane, place, first_sums(lane, x), packed.recurrent);
    } else {
      if (recurrent.units > 0) recurrent_product(worker, lane, recurrent, place, packed.recurrent);
      if (lane.scratch.by_h) return;
      if (recurrent.units > 0) worker.sync();
      finish_part(worker, lane, place, x);
    }
    if (lane.cell.inner) early_phases(worker, lane, place, x);
    const T* weight = packed.input;
    for (long k = 0, next; k < lane.cell.phases_inside(); k = next) {
      const InnerProducts& inner = *lane.cell.inner;
      if (inner.meets[k]) worker.sync();
      if (inner.is_product(k)) {
        inner_phase<Fma<T>>(worker, lane, place, k, x, weight);
        weight += Fma<T>::gates_size(inner_shape(lane, k));
        next = k + 1;
      } else {
        next = end_of_sums(inner, k);
        sum_phases(worker, lane, place, k, next, x);
      }
    }
  }
};

// Runs a lane.
template <class T>
void sweep_forward(const Worker& worker, const Lane<T>& lane, const Scratch<T>& scratch) {
  const Steps<T> steps(worker, lane, scratch.recurrent);
  if (lane.weights.w_hr) {
    Fma<T>::pack_transposed_of(worker, lane.weights.w_hr, lane.hidden, lane.outputs, steps.behind);
  }
  draw_masks(worker, lane, 0);
  for (long begin = 0; begin < lane.steps; begin += lane.chunk) {
    const long end = min(begin + lane.chunk, lane.steps);
    const Range rows = rows_of(lane, begin, end);
    Sum<T>* const input = input_of(lane, rows);
    if (lane.arguments.x_part.data) {
      bring_input(worker, lane, rows, input);
    } else {
      steps.input(worker, lane, rows, input, panel_of(worker, scratch.panels));
    }
    worker.sync();
    for (long place = begin; place < end; ++place) {
      Sum<T>* const x = lane.input_in_step
                            ? lane.scratch.input_part
                            : input + (row_of(lane, place) - rows.begin) * lane.scratch.input_stride;
      steps.run(worker, lane, place, x);
      draw_masks(worker, lane, place + 1);
      if (steps.meets) worker.sync();
      if (lane.scratch.by_h) {  // whose products are normalized, row by row
        finish_rows(worker, lane, cell_step<T>(lane, place, nullptr), x);
        worker.sync();
      }
      if (!lane.weights.w_hr) continue;
      project<Fma<T>>(worker, lane, place, steps.behind);
      worker.sync();
    }
    if (!steps.meets) worker.sync();  // the next chunk's input is written over this one's
  }
}

}  // namespace fused_lstm::FL_ISA
