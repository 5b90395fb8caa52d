// A lane's forward pass: the input product of many steps at once, then one product a step with the
// cell's pointwise work done on each tile while it is in registers.
#pragma once

#include "cells/layer_norm.h"
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
  step.lane = &lane;
  step.place = place;
  step.hidden = hidden;
  step.keep = lane.keep ? lane.keep + row : nullptr;
  step.input_part = input_part;
  step.gates = lane.gates ? lane.gates + row * 4 * hidden : nullptr;
  step.c_next = lane.save ? lane.c + row * hidden : lane.c;
  step.h = lane.unprojected ? lane.unprojected : lane.y + row * lane.y_stride;
  step.stride = lane.unprojected ? hidden : lane.y_stride;
  return step;
}

// Of weights as Multiply takes them: packed, or as they lie.
template <class Multiply, class T, class E>
void step_forward(const Worker& worker, const Lane<T>& lane, long place, const Sum<T>* input_part,
                  const E* weight) {
  const long hidden = lane.hidden;
  CellStep<T> step = cell_step(lane, place, input_part);
  for_states_before(lane, place, [&](Range rows, const Before<T>& before) {
    step.c = before.c;
    // Back and forth through the weights: what the last step used last is still in cache.
    Multiply::gates(
        worker, before.fed, rows, lane.outputs, hidden, weight, place % 2,
        [&](auto& tile, long unit, long row) {
          const Sum<T>* const begins = input_part + row * 4 * hidden + unit;
          prefetch_gates(tile, begins + (place % 2 ? -W<T> : W<T>), hidden);
          load_gates(tile, begins, hidden, min(hidden - unit, W<T>));
        },
        [&](const auto& tile, long unit, long row) { finish_cell(step, unit, row, tile); });
  });
  draw_masks(worker, lane, place + 1);
}

// y = unprojected w_hr', of a step.
template <class Multiply, class T, class E>
void project(const Worker& worker, const Lane<T>& lane, long place, const E* weight) {
  T* const y = lane.y + row_of(lane, place) * lane.y_stride;
  Multiply::columns(worker, Rows<T>{lane.unprojected, lane.hidden}, {0, alive(lane, place)},
                    lane.hidden, lane.outputs, weight,
                    [&](const auto& tile, long first, long row) {
    const long column = first * W<T>;
    if (lane.added) return leave_tile(lane, place, column, row, tile);
    store(tile, y + row * lane.y_stride + column, lane.y_stride, lane.outputs - column);
  });
}

// What a step's sums begin with, given the input's part of the gates of its rows.
template <class T>
FL_INLINE const Sum<T>* first_sums(const Lane<T>& lane, const Sum<T>* input_part) {
  return lane.by_h ? lane.added->zeros : input_part;
}

// After a step's product, where there is more to do that needs whole rows.
template <class T>
void normalize(const Worker& worker, const Lane<T>& lane, long place, const Sum<T>* input_part) {
  if (!lane.by_h) return;
  finish_rows(worker, lane, cell_step<T>(lane, place, nullptr), input_part);
  worker.sync();
}

template <class T>
void sweep_forward(const Worker& worker, const Lane<T>& lane, const Scratch<T>& scratch) {
  const long hidden = lane.hidden, outputs = lane.outputs;
  T* const projection = scratch.recurrent + Fma<T>::gates_size(outputs, hidden);
  Fma<T>::pack_gates_of(worker, lane.w_hh, outputs, hidden, scratch.recurrent);
  if (lane.w_hr) Fma<T>::pack_transposed_of(worker, lane.w_hr, hidden, outputs, projection);
  draw_masks(worker, lane, 0);
  for (long begin = 0; begin < lane.steps; begin += lane.chunk) {
    const long end = min(begin + lane.chunk, lane.steps);
    const Range rows = rows_of(lane, begin, end);
    input_product(worker, lane, rows, lane.input_part, panel_of(worker, scratch.panels));
    worker.sync();
    for (long place = begin; place < end; ++place) {
      const Sum<T>* const x = lane.input_part + (row_of(lane, place) - rows.begin) * 4 * hidden;
      step_forward<Fma<T>>(worker, lane, place, first_sums(lane, x), scratch.recurrent);
      worker.sync();
      normalize(worker, lane, place, x);
      if (!lane.w_hr) continue;
      project<Fma<T>>(worker, lane, place, projection);
      worker.sync();
    }
  }
}

}  // namespace fused_lstm::FL_ISA
