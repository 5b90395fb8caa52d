// A lane's forward pass: the input product of many steps at once, then one product a step with the
// cell's pointwise work done on each tile while it is in registers.
#pragma once

#include "cells/lstm.h"
#include "product/step.h"

namespace fused_lstm::FL_ISA {

// Of a lane's recurrent weights, packed, and where h is projected those of the projection too.
template <class T>
long recurrent_size(long hidden, long outputs, bool projected) {
  const long forward = Fma<T>::gates_size(outputs, hidden);
  const long backward = Fma<T>::columns_size(4, hidden, outputs);
  const long projection =
      max(Fma<T>::columns_size(1, hidden, outputs), Fma<T>::columns_size(1, outputs, hidden));
  return max(forward, backward) + (projected ? projection : 0);
}

// --- which rows are alive ---

// The time of the place-th step in a lane's order.
template <class T>
FL_INLINE long time_of(const Lane<T>& lane, long place) {
  return lane.reverse ? lane.steps - 1 - place : place;
}

// Rows at a place; there are none before the first place and after the last.
template <class T>
FL_INLINE long alive(const Lane<T>& lane, long place) {
  if (place < 0 || place >= lane.steps) return 0;
  const long t = time_of(lane, place);
  return lane.first[t + 1] - lane.first[t];
}

// The first row of a place's step, of all N.
template <class T>
FL_INLINE long row_of(const Lane<T>& lane, long place) {
  return lane.first[time_of(lane, place)];
}

// All rows of the places from `begin` to `end`.
template <class T>
FL_INLINE Range rows_of(const Lane<T>& lane, long begin, long end) {
  if (lane.reverse) return {lane.first[lane.steps - end], lane.first[lane.steps - begin]};
  return {lane.first[begin], lane.first[end]};
}

// --- the input product: gates[n] = x[n] W_ih' + b for the rows n of `chunk` steps ---

template <class T>
FL_INLINE Vec<T> bias_of(const Lane<T>& lane, int gate, long unit, long width) {
  if (!lane.b_ih) return Vec<T>{};
  const long at = gate * lane.hidden + unit;
  return load(lane.b_ih + at, width) + load(lane.b_hh + at, width);
}

template <class T, int R>
FL_INLINE void load_bias(Tile<T, R, 4>& tile, const Lane<T>& lane, long unit) {
  FL_OF_TILE for (int gate = 0; gate < 4; ++gate) {
    const Vec<T> bias = bias_of(lane, gate, unit, min(lane.hidden - unit, W<T>));
    FL_OF_TILE for (int r = 0; r < R; ++r) tile.sum[r][gate] = bias;
  }
}

template <class T, int R>
FL_INLINE void input_tile(const Lane<T>& lane, const T* x, Sum<T>* gates, const T* panel, long unit,
                          long first, long count) {
  const long hidden = lane.hidden, width = min(hidden - unit, W<T>);
  Tile<T, R, 4> tile;
  if (first > 0) {
    load_gates(tile, gates + unit, hidden, width);
  } else {
    load_bias(tile, lane, unit);
  }
  multiply_rows(tile, x + first, lane.inputs, count, panel);
  store_gates(tile, gates + unit, hidden, width);
}

// Of the rows `rows`, into `gates`, where the first of them goes.
template <class T>
void input_product(const Worker& worker, const Lane<T>& lane, Range rows, Sum<T>* gates, T* panel) {
  const T* x = lane.x + rows.begin * lane.inputs;
  const long count = rows.end - rows.begin;
  for_shares(worker, count, blocks_of<T>(lane.hidden), 1, gates_tile.rows, false,
             [&](const Share& share) {
    const long unit = share.first * W<T>;
    for (long first = 0; first < lane.inputs; first += panel_depth<T>) {
      const long depth = min(lane.inputs - first, panel_depth<T>);
      pack_gates(lane.w_ih, lane.hidden, lane.inputs, unit, first, depth, panel);
      for_heights<gates_tile.rows>(share, {0, count}, [&](auto height, long row) {
        input_tile<T, decltype(height)::value>(lane, x + row * lane.inputs,
                                               gates + row * 4 * lane.hidden, panel, unit, first,
                                               depth);
      });
    }
  });
}

// --- a step ---

// Where the cell of a place finds and leaves what it needs; `input_part` is that of its row 0.
template <class T>
FL_INLINE CellStep<T> cell_step(const Lane<T>& lane, long place, const Sum<T>* input_part) {
  const long row = row_of(lane, place), hidden = lane.hidden;
  CellStep<T> step{};
  step.hidden = hidden;
  step.keep = lane.keep ? lane.keep + row : nullptr;
  step.input_part = input_part;
  step.gates = lane.gates ? lane.gates + row * 4 * hidden : nullptr;
  step.c_next = lane.save ? lane.c + row * hidden : lane.c;
  step.h = lane.unprojected ? lane.unprojected : lane.y + row * lane.y_stride;
  step.stride = lane.unprojected ? hidden : lane.y_stride;
  return step;
}

// body(rows, h, c) for the rows of a place that were alive at the one before, then for those that
// begin, where h [B, P] and c [B, H] are their states before.
template <class T, class Body>
FL_INLINE void for_states_before(const Lane<T>& lane, long place, const Body& body) {
  const long rows = alive(lane, place), continued = min(rows, alive(lane, place - 1));
  for (int begins = 0; begins < 2; ++begins) {
    const Range range = begins ? Range{continued, rows} : Range{0, continued};
    if (range.begin == range.end) continue;
    const long before = begins ? 0 : row_of(lane, place - 1);
    const Sum<T>* c = begins ? lane.c0 : lane.save ? lane.c + before * lane.hidden : lane.c;
    const Rows<T> h = begins ? Rows<T>{lane.h0, lane.outputs}
                             : Rows<T>{lane.y + before * lane.y_stride, lane.y_stride};
    body(range, h, c);
  }
}

// Of weights as Multiply takes them: packed, or as they lie.
template <class Multiply, class T, class E>
void step_forward(const Worker& worker, const Lane<T>& lane, long place, const Sum<T>* input_part,
                  const E* weight) {
  const long hidden = lane.hidden;
  CellStep<T> step = cell_step(lane, place, input_part);
  for_states_before(lane, place, [&](Range rows, Rows<T> h, const Sum<T>* c) {
    step.c = c;
    // Back and forth through the weights: what the last step used last is still in cache.
    Multiply::gates(
        worker, h, rows, lane.outputs, hidden, weight, place % 2,
        [&](auto& tile, long unit, long row) {
          load_gates(tile, input_part + row * 4 * hidden + unit, hidden, min(hidden - unit, W<T>));
        },
        [&](const auto& tile, long unit, long row) { finish_cell(step, unit, row, tile); });
  });
}

// y = unprojected w_hr', of a step.
template <class Multiply, class T, class E>
void project(const Worker& worker, const Lane<T>& lane, long place, const E* weight) {
  T* const y = lane.y + row_of(lane, place) * lane.y_stride;
  Multiply::columns(worker, Rows<T>{lane.unprojected, lane.hidden}, {0, alive(lane, place)},
                    lane.hidden, lane.outputs, weight,
                    [&](const auto& tile, long first, long row) {
    const long column = first * W<T>;
    store(tile, y + row * lane.y_stride + column, lane.y_stride, lane.outputs - column);
  });
}

template <class T>
void sweep_forward(const Worker& worker, const Lane<T>& lane, const Scratch<T>& scratch) {
  const long hidden = lane.hidden, outputs = lane.outputs;
  T* const projection = scratch.recurrent + Fma<T>::gates_size(outputs, hidden);
  Fma<T>::pack_gates_of(worker, lane.w_hh, outputs, hidden, scratch.recurrent);
  if (lane.w_hr) Fma<T>::pack_transposed_of(worker, lane.w_hr, hidden, outputs, projection);
  for (long begin = 0; begin < lane.steps; begin += lane.chunk) {
    const long end = min(begin + lane.chunk, lane.steps);
    const Range rows = rows_of(lane, begin, end);
    input_product(worker, lane, rows, lane.input_part, panel_of(worker, scratch.panels));
    worker.sync();
    for (long place = begin; place < end; ++place) {
      const long row = row_of(lane, place) - rows.begin;
      step_forward<Fma<T>>(worker, lane, place, lane.input_part + row * 4 * hidden,
                           scratch.recurrent);
      worker.sync();
      if (!lane.w_hr) continue;
      project<Fma<T>>(worker, lane, place, projection);
      worker.sync();
    }
  }
}

}  // namespace fused_lstm::FL_ISA
