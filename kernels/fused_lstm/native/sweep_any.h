// The forward pass of a lane whose cell's gates do not all lie in a tile: more than four, gates of x
// or of h alone, more than one pair. R h is brought to memory, all gates' rows as one
// matrix, and the cell reads it there, after one more meeting of the workers. If no gate has a part by
// h, there is no product, and no meeting within a chunk: a worker keeps its rows and units.
#pragma once

#include "sweep_forward.h"

namespace fused_lstm::FL_ISA {

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

// From x's part of a step's gates, and h's in lane.product, to the cell's results.
template <class T>
void finish_part(const Worker& worker, const Lane<T>& lane, long place, const Sum<T>* input_part) {
  constexpr long tallest = 8;  // rows at once, whose sums lie in the L1 cache
  const CellShape& shape = lane.cell;
  const long hidden = lane.hidden, gates = shape.h_gates();
  const Part mine = part_of_steps(worker, lane);
  CellStep<T> step = cell_step(lane, place, input_part);
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    step.c = before.c;
    const long end = min(rows.end, mine.rows.end);
    for (long block = mine.blocks.begin; block < mine.blocks.end; ++block) {
      const long unit = block * W<T>, width = min(hidden - unit, W<T>);
      for (long first = max(rows.begin, mine.rows.begin); first < end; first += tallest) {
        const long count = min(end - first, tallest);
        Vec<T> sums[tallest * most_gates];
        for (long r = 0; r < count; ++r) {
          const Sum<T>* const x = input_part + (first + r) * lane.input_stride + unit;
          const Sum<T>* const h = lane.product + (first + r) * gates * hidden + unit;
          for (long gate = 0; gate < gates; ++gate) {
            const long m = gate - shape.sums;
            Vec<T> other = {};
            if (m < 0) {
              other = load(x + gate * hidden, width);
            } else if (lane.b_m) {
              other = load(lane.b_m + m * hidden + unit, width);
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
    Sum<T>* const of_row = lane.by_h ? by_h_of(lane, place, b) : lane.product + b * columns;
    Sum<T>* const to = of_row + column;
    for (long n = 0; n < vectors; ++n) store(to + n * W<T>, *sums++, columns - column - n * W<T>);
  }
}

// h w_hh' of a step, to lane.product, or where the lane normalizes it to lane.by_h.
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

template <class T>
FL_INLINE WeightShape flat_input(const Lane<T>& lane) {
  return {1, lane.cell.x_gates() * lane.hidden, lane.inputs};
}

}  // namespace fused_lstm::FL_ISA
