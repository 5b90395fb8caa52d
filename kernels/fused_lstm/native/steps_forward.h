// A layer's forward pass: the input product of many steps at once, then one product a step with
// the cell's pointwise work done on each tile while it is in registers.
//
// A panel holds one block's four gates: [k][i, f, g, o][W units].
#pragma once

#include "blocks.h"
#include "cell.h"

namespace fused_lstm::FL_ISA {

template <class T>
long recurrent_size(long hidden) {  // forward: [blocks][H][4][W]; backward: [4H][blocks][W]
  return 4 * hidden * blocks_of<T>(hidden) * W<T>;
}

template <class T>
void pack_recurrent(const Worker& worker, const Layer<T>& layer, T* packed) {
  const long hidden = layer.hidden;
  const Range mine = part(blocks_of<T>(hidden), worker.id, worker.count);
  for (long block = mine.begin; block < mine.end; ++block) {
    pack_gates(layer.w_hh, hidden, hidden, block * W<T>, 0, hidden,
               packed + block * hidden * 4 * W<T>);
  }
}

// --- the input product: gates[n] = x[n] W_ih' + b for the rows n of `chunk` steps ---

template <class T>
FL_INLINE Vec<T> bias_of(const Layer<T>& layer, int gate, long unit, long width) {
  if (!layer.b_ih) return Vec<T>{};
  const long at = gate * layer.hidden + unit;
  return load(layer.b_ih + at, width) + load(layer.b_hh + at, width);
}

// R rows of [B, 4H], the four gates of a block's units.
template <class T, int R>
FL_INLINE void load_gates(Tile<T, R, 4>& tile, const T* gates, long hidden, long width) {
  FL_UNROLL for (int r = 0; r < R; ++r) {
    FL_UNROLL for (int gate = 0; gate < 4; ++gate) {
      tile.sum[r][gate] = load(gates + (4 * r + gate) * hidden, width);
    }
  }
}

template <class T, int R>
FL_INLINE void store_gates(const Tile<T, R, 4>& tile, T* gates, long hidden, long width) {
  FL_UNROLL for (int r = 0; r < R; ++r) {
    FL_UNROLL for (int gate = 0; gate < 4; ++gate) {
      store(gates + (4 * r + gate) * hidden, tile.sum[r][gate], width);
    }
  }
}

template <class T, int R>
FL_INLINE void input_tile(const Layer<T>& layer, const T* x, T* gates, const T* panel, long unit,
                          long first, long count) {
  const long hidden = layer.hidden, width = min(hidden - unit, W<T>);
  Tile<T, R, 4> tile;
  if (first > 0) {
    load_gates(tile, gates + unit, hidden, width);
  } else {
    FL_UNROLL for (int gate = 0; gate < 4; ++gate) {
      const Vec<T> bias = bias_of(layer, gate, unit, width);
      FL_UNROLL for (int r = 0; r < R; ++r) tile.sum[r][gate] = bias;
    }
  }
  multiply_rows(tile, x + first, layer.inputs, count, panel);
  store_gates(tile, gates + unit, hidden, width);
}

template <class T>
void input_product(const Worker& worker, const Layer<T>& layer, long step, long steps, T* panel) {
  const T* x = layer.x + step * layer.batch * layer.inputs;
  T* gates = layer.save ? layer.gates + step * layer.batch * 4 * layer.hidden : layer.gates;
  const long rows = steps * layer.batch;
  for_shares(worker, rows, blocks_of<T>(layer.hidden), 1, gates_tile.rows, false,
             [&](const Share& share) {
    const long unit = share.first * W<T>;
    for (long first = 0; first < layer.inputs; first += panel_rows) {
      const long count = min(layer.inputs - first, panel_rows);
      pack_gates(layer.w_ih, layer.hidden, layer.inputs, unit, first, count, panel);
      for_heights<gates_tile.rows>(share, {0, rows}, [&](auto height, long row) {
        input_tile<T, decltype(height)::value>(layer, x + row * layer.inputs,
                                               gates + row * 4 * layer.hidden, panel, unit, first,
                                               count);
      });
    }
  });
}

// --- a step ---

template <class T>
struct Step {  // pointers of one time step
  const T* h;      // [B, H] before it
  const T* c;      // [B, H] before it
  T* h_next;       // [B, H]
  T* c_next;       // [B, H]
  T* gates;        // [B, 4H], the input product
};

template <class T>
FL_INLINE Step<T> step_of(const Layer<T>& layer, long t, long in_chunk) {
  const long size = layer.batch * layer.hidden;
  Step<T> step;
  step.h = t > 0 ? layer.y + (t - 1) * size : layer.h0;
  step.h_next = layer.y + t * size;
  step.c_next = layer.save ? layer.c + t * size : layer.c;
  step.c = t == 0 ? layer.c0 : layer.save ? layer.c + (t - 1) * size : layer.c;
  step.gates = layer.gates + 4 * size * (layer.save ? t : in_chunk);
  return step;
}

// The rest of a step for R rows of a block, when the tile holds the input's part of the gates.
template <class T, int R>
FL_INLINE void recur(const Layer<T>& layer, const Step<T>& step, const T* panel, long unit,
                     long row, Tile<T, R, 4>& tile, Ahead<T> ahead = {}) {
  const long hidden = layer.hidden, width = min(hidden - unit, W<T>);
  T* gates = step.gates + row * 4 * hidden + unit;
  multiply_rows(tile, step.h + row * hidden, hidden, hidden, panel, ahead);
  Tile<T, R, 4> made = tile;
  // Two loops: the tanh of c waits for all of a row's gates, and rows do not wait for each other.
  for (int r = 0; r < R; ++r) {
    Vec<T>(&sum)[4] = made.sum[r];
    const long at = (row + r) * hidden + unit;
    const Gates<T> a = activate<T>({sum[0], sum[1], sum[2], sum[3]});
    if (layer.save) store_gates(a, gates + 4 * r * hidden, hidden, width);
    sum[0] = a.f * load(step.c + at, width) + a.i * a.g;
    sum[1] = a.o;
  }
  for (int r = 0; r < R; ++r) {
    const long at = (row + r) * hidden + unit;
    const Vec<T> c = made.sum[r][0];
    store(step.c_next + at, c, width);
    store(step.h_next + at, made.sum[r][1] * tanh<T>(c), width);
  }
}

template <class T, int R>
FL_INLINE void step_tile(const Layer<T>& layer, const Step<T>& step, const T* panel, long unit,
                         long row, Ahead<T> ahead) {
  const long hidden = layer.hidden, width = min(hidden - unit, W<T>);
  Tile<T, R, 4> tile;
  load_gates(tile, step.gates + row * 4 * hidden + unit, hidden, width);
  recur(layer, step, panel, unit, row, tile, ahead);
}

// Calls body(height, unit, row, panel, ahead) for this worker's tiles of a step: `height` rows, a
// Constant, from `row` on by the units of a block.
template <class T, class Body>
FL_INLINE void for_step_tiles(const Worker& worker, long batch, long hidden, const T* packed,
                              bool backwards, const Body& body) {
  const long blocks = blocks_of<T>(hidden), size = hidden * 4 * W<T>;  // of a panel
  const bool cached = blocks * hidden * 4 * FL_BYTES <= worker.count * cached_bytes;
  for_shares(worker, batch, blocks, 1, gates_tile.rows, backwards,
             [&](const Share& share) {
    const T* panel = packed + share.first * size;
    const long next = share.first + (backwards ? -1 : 1);
    const bool last = next < 0 || next == blocks;
    for_heights<gates_tile.rows>(share, {0, batch}, [&](auto height, long row) {
      Ahead<T> ahead;
      if (!cached && !last) {
        ahead = ahead_of(packed + next * size, size, row, decltype(height)::value, batch,
                         divide_up(hidden, line<T>));
      }
      body(height, share.first * W<T>, row, panel, ahead);
    });
  });
}

template <class T>
void one_step(const Worker& worker, const Layer<T>& layer, const Step<T>& step, const T* packed,
              bool backwards) {
  for_step_tiles(worker, layer.batch, layer.hidden, packed, backwards,
                 [&](auto height, long unit, long row, const T* panel, Ahead<T> ahead) {
    step_tile<T, decltype(height)::value>(layer, step, panel, unit, row, ahead);
  });
}

template <class T>
void forward(const Worker& worker, const Layer<T>& layer, const Scratch<T>& scratch) {
  pack_recurrent(worker, layer, scratch.recurrent);
  for (long begin = 0; begin < layer.steps; begin += layer.chunk) {
    const long steps = min(layer.steps - begin, layer.chunk);
    input_product(worker, layer, begin, steps, panel_of(worker, scratch.panels));
    worker.sync();
    for (long t = begin; t < begin + steps; ++t) {
      // Back and forth through the weights: what the last step used last is still in cache.
      one_step(worker, layer, step_of(layer, t, t - begin), scratch.recurrent, t % 2);
      worker.sync();
    }
  }
}

}  // namespace fused_lstm::FL_ISA
