// A layer's backward pass: one product a step with the cell's pointwise backward done on each tile
// while it is in registers; then the gradients of weights and input as large products.
//
// dgates, by the gates before activation, is kept in blocks: [4 * blocks][rows][W], row t * B + b.
// A vector store fills a line of it, and it serves as either factor: row by row in dh = dgates R
// and dx = dgates W, and transposed in dR = dgates' h and dW = dgates' x, without a copy.
#pragma once

#include "steps_forward.h"

namespace fused_lstm::FL_ISA {

template <class T>
struct GateBlocks {
  T* data;
  long hidden, blocks, rows;

  // Odd, so that the blocks of one row do not all fall into the same cache set.
  FL_INLINE static long padded(long rows) { return rows | 1; }
  FL_INLINE T* at(long block, long row) const { return data + (block * rows + row) * W<T>; }
  FL_INLINE long width(long block) const {  // units that exist
    return min(hidden - block % blocks * W<T>, W<T>);
  }
  FL_INLINE long gate_row(long block) const {  // its first unit's row in a weight matrix
    return block / blocks * hidden + block % blocks * W<T>;
  }
};

template <class T>
long dgates_size(long rows, long hidden) {
  return 4 * blocks_of<T>(hidden) * GateBlocks<T>::padded(rows) * W<T>;
}

// tile += dgates[row .. row + R, blocks of `range`] * panel; a panel row for each existing unit.
template <class T, int R, int N>
FL_INLINE void multiply_blocks(Tile<T, R, N>& tile, const GateBlocks<T>& dgates, long row,
                               Range range, const T* panel) {
  for (long block = range.begin; block < range.end; ++block) {
    FL_UNROLL for (int r = 0; r < R; ++r) {  // the next block is too far for the hardware to guess
      __builtin_prefetch(dgates.at(block + 1, row + r));
    }
    const long width = dgates.width(block);
    multiply<1>(tile, dgates.at(block, row), W<T>, width, panel);
    panel += width * N * W<T>;
  }
}

template <class T>
void pack_recurrent_columns(const Worker& worker, const Layer<T>& layer, T* packed) {
  const long hidden = layer.hidden, vectors = blocks_of<T>(hidden);
  const long panels = divide_up(vectors, max_vectors);
  const Range mine = part(4 * hidden, worker.id, worker.count);
  for (long i = 0; i < panels; ++i) {
    const Range columns = part(vectors, i, panels);
    const long n = columns.end - columns.begin, column = columns.begin * W<T>;
    T* panel = packed + columns.begin * 4 * hidden * W<T>;
    pack_columns(layer.w_hh, hidden, mine.begin, mine.end - mine.begin, column, hidden - column, n,
                 panel + mine.begin * n * W<T>);
  }
}

// --- a step: dh from the next step's dgates, then this step's dgates ---

template <class T, int R, int N>
FL_INLINE void gradient_tile(const Layer<T>& layer, const LayerGradient<T>& gradient, long t,
                             const GateBlocks<T>& dgates, const T* panel, long first, long row) {
  const long hidden = layer.hidden, size = layer.batch * hidden, unit = first * W<T>;
  const long corner = row * hidden + unit, width = hidden - unit;
  Tile<T, R, N> dh;
  clear(dh);
  if (t >= 0 && gradient.dy) load(dh, gradient.dy + t * size + corner, hidden, width);
  if (t + 1 < layer.steps) {
    multiply_blocks(dh, dgates, (t + 1) * layer.batch + row, {0, 4 * dgates.blocks}, panel);
  } else if (gradient.dh_n) {
    Tile<T, R, N> last;
    load(last, gradient.dh_n + corner, hidden, width);
    FL_UNROLL for (int r = 0; r < R; ++r) {
      FL_UNROLL for (int n = 0; n < N; ++n) dh.sum[r][n] += last.sum[r][n];
    }
  }
  if (t < 0) return store(dh, gradient.dh0 + corner, hidden, width);
  const T* c_before = t > 0 ? layer.c + (t - 1) * size : layer.c0;
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) {
      const long at = corner + r * hidden + n * W<T>, exist = width - n * W<T>;
      const long line = t * layer.batch + row + r, block = first + n;
      const T* activated = layer.gates + line * 4 * hidden + block * W<T>;
      Vec<T> dc = load(gradient.dc0 + at, exist);
      const Gates<T> da =
          gate_gradients<T>(load_gates(activated, hidden, exist), load(c_before + at, exist),
                            load(layer.c + t * size + at, exist), dh.sum[r][n], dc);
      store(gradient.dc0 + at, dc, exist);
      store(dgates.at(block, line), da.i);
      store(dgates.at(block + dgates.blocks, line), da.f);
      store(dgates.at(block + 2 * dgates.blocks, line), da.g);
      store(dgates.at(block + 3 * dgates.blocks, line), da.o);
    }
  }
}

// t = -1 is the step before the first, where there is only dh0.
template <class T>
void one_step_back(const Worker& worker, const Layer<T>& layer, const LayerGradient<T>& gradient,
                   long t, const GateBlocks<T>& dgates, const T* packed) {
  const long batch = layer.batch, parts = divide_up(batch, max_rows);
  for_shares(worker, batch, dgates.blocks, max_vectors, max_rows, t % 2, [&](const Share& share) {
    const T* panel = packed + share.first * 4 * layer.hidden * W<T>;
    for (long block = share.blocks.begin; block < share.blocks.end; ++block) {
      const Range rows = part(batch, block, parts);
      with_constant<max_rows>(rows.end - rows.begin, [&](auto height) {
        with_constant<max_vectors>(share.vectors, [&](auto vectors) {
          gradient_tile<T, decltype(height)::value, decltype(vectors)::value>(
              layer, gradient, t, dgates, panel, share.first, rows.begin);
        });
      });
    }
  });
}

// --- dx = dgates W ---

template <class T>
void input_gradient(const Worker& worker, const Layer<T>& layer, T* dx,
                    const GateBlocks<T>& dgates, T* panel) {
  const long inputs = layer.inputs, rows = layer.steps * layer.batch;
  const long parts = divide_up(rows, max_rows), at_once = panel_rows / W<T>;
  for_shares(worker, rows, divide_up(inputs, W<T>), max_vectors, max_rows, false,
             [&](const Share& share) {
    const long column = share.first * W<T>;
    for (long first = 0; first < 4 * dgates.blocks; first += at_once) {
      const long last = min(first + at_once, 4 * dgates.blocks), begin = dgates.gate_row(first);
      pack_columns(layer.w_ih, inputs, begin, dgates.gate_row(last) - begin, column,
                   inputs - column, share.vectors, panel);
      for (long block = share.blocks.begin; block < share.blocks.end; ++block) {
        const Range n = part(rows, block, parts);
        with_constant<max_rows>(n.end - n.begin, [&](auto height) {
          with_constant<max_vectors>(share.vectors, [&](auto vectors) {
            Tile<T, decltype(height)::value, decltype(vectors)::value> tile;
            T* target = dx + n.begin * inputs + column;
            clear(tile);
            if (first > 0) load(tile, target, inputs, inputs - column);
            multiply_blocks(tile, dgates, n.begin, {first, last}, panel);
            store(tile, target, inputs, inputs - column);
          });
        });
      }
    }
  });
}

// --- dW = dgates' x and dR = dgates' h, with db = the sum of dgates' rows ---

template <class T>
constexpr int weight_rows = max_rows < 4 || W<T> < 4 ? 2 : 4;  // divides W

template <class T>
FL_INLINE void bias_gradient(const GateBlocks<T>& dgates, long block, Range rows, T* db) {
  const long width = dgates.width(block);
  T* target = db + dgates.gate_row(block);
  Vec<T> total = rows.begin > 0 ? load(target, width) : Vec<T>{};
  for (long row = rows.begin; row < rows.end; ++row) total += load(dgates.at(block, row));
  store(target, total, width);
}

// dw[4H, columns] = dgates' factor, where pack(rows, column, vectors, panel) fills a panel of it.
template <class T, class Pack>
void weight_gradient(const Worker& worker, const GateBlocks<T>& dgates, long rows, long columns,
                     T* dw, T* db, T* panel, const Pack& pack) {
  constexpr int height = weight_rows<T>;
  const long tiles = W<T> / height;  // in a block
  for_shares(worker, 4 * dgates.blocks * tiles, divide_up(columns, W<T>), max_vectors, 1, false,
             [&](const Share& share) {
    const long column = share.first * W<T>;
    for (long first = 0; first < rows; first += panel_rows) {
      const Range n{first, min(first + panel_rows, rows)};
      pack(n, column, share.vectors, panel);
      for (long i = share.blocks.begin; i < share.blocks.end; ++i) {
        const long block = i / tiles, unit = i % tiles * height;
        if (db && share.first == 0 && unit == 0) bias_gradient(dgates, block, n, db);
        if (unit >= dgates.width(block)) continue;
        const long exist = min(dgates.width(block) - unit, height);
        T* target = dw + (dgates.gate_row(block) + unit) * columns + column;
        with_constant<max_vectors>(share.vectors, [&](auto vectors) {
          Tile<T, height, decltype(vectors)::value> tile;
          clear(tile);
          if (first > 0) load(tile, target, columns, columns - column, exist);
          multiply<W<T>>(tile, dgates.at(block, first) + unit, 1, n.end - n.begin, panel);
          store(tile, target, columns, columns - column, exist);
        });
      }
    }
  });
}

template <class T>
void backward(const Worker& worker, const Layer<T>& layer, const LayerGradient<T>& gradient,
              const Scratch<T>& scratch) {
  const long hidden = layer.hidden, rows = layer.steps * layer.batch, batch = layer.batch;
  const GateBlocks<T> dgates{gradient.dgates, hidden, blocks_of<T>(hidden),
                             GateBlocks<T>::padded(rows)};
  pack_recurrent_columns(worker, layer, scratch.recurrent);
  for (long t = layer.steps - 1; t >= -1; --t) {
    worker.sync();
    one_step_back(worker, layer, gradient, t, dgates, scratch.recurrent);
  }
  T* panel = panel_of(worker, scratch);
  if (gradient.dx) input_gradient(worker, layer, gradient.dx, dgates, panel);
  weight_gradient(worker, dgates, rows, layer.inputs, gradient.dw_ih, gradient.db, panel,
                  [&](Range n, long column, long vectors, T* out) {
    pack_columns(layer.x, layer.inputs, n.begin, n.end - n.begin, column, layer.inputs - column,
                 vectors, out);
  });
  weight_gradient(worker, dgates, rows, hidden, gradient.dw_hh, static_cast<T*>(nullptr), panel,
                  [&](Range n, long column, long vectors, T* out) {
    const long split = n.begin < batch ? min(n.end, batch) : n.begin;  // rows of h0, then of y
    pack_columns(layer.h0, hidden, n.begin, split - n.begin, column, hidden - column, vectors, out);
    pack_columns(layer.y, hidden, split - batch, n.end - split, column, hidden - column, vectors,
                 out + (split - n.begin) * vectors * W<T>);
  });
}

}  // namespace fused_lstm::FL_ISA
