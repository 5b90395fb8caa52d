// The products of a step, whose weights are packed once for all steps.
//
// A product here packs its weights, is divided among the workers tile by tile, and hands each
// tile's sums on: what is done with them, the cell's pointwise work, is the caller's. Another way
// to multiply is another struct with the members of Fma.
#pragma once

#include "product/blocks.h"
#include "product/pack.h"

namespace fused_lstm::FL_ISA {

// Rows of a matrix, `stride` apart.
template <class T>
struct Rows {
  const T* data;
  long stride;
};

// R rows of a matrix, `stride` apart, the gates of the units of some blocks: vectors of a tile are
// [blocks][GATES]. A gate is `units` columns further on than the one before; of the units from the
// first block's on, `width` exist.
template <int GATES, class T, int R, int V>
FL_INLINE void load_gates(Tile<T, R, V>& tile, const Sum<T>* gates, long stride, long units,
                          long width) {
  FL_OF_TILE for (int r = 0; r < R; ++r) {
    FL_OF_TILE for (int v = 0; v < V; ++v) {
      const long first = v / GATES * W<T>;
      tile.sum[r][v] = load(gates + r * stride + v % GATES * units + first, width - first);
    }
  }
}

// Fetches gates likewise into the L2 cache, lines that the hardware does not guess: waiting for them
// was an eighth of a step on a Zen 4. They may lie beyond the matrix.
template <int GATES, class T, int R, int V>
FL_INLINE void prefetch_gates(const Tile<T, R, V>&, const Sum<T>* gates, long stride, long units) {
  FL_OF_TILE for (int r = 0; r < R; ++r) {
    FL_OF_TILE for (int v = 0; v < V; ++v) {
      const Sum<T>* const row = gates + r * stride + v / GATES * W<T>;
      __builtin_prefetch(row + v % GATES * units, 0, 2);
    }
  }
}

template <int GATES, class T, int R, int V>
FL_INLINE void store_gates(const Tile<T, R, V>& tile, Sum<T>* gates, long stride, long units,
                           long width) {
  FL_OF_TILE for (int r = 0; r < R; ++r) {
    FL_OF_TILE for (int v = 0; v < V; ++v) {
      const long first = v / GATES * W<T>;
      store(gates + r * stride + v % GATES * units + first, tile.sum[r][v], width - first);
    }
  }
}

// Multiply-adds of vectors, in tiles of registers.
template <class T>
struct Fma {
  // --- gates[b] = begin + left[b] weight' ---
  //
  // A panel holds the gates of one block, or of one gate some blocks: [k][blocks][gates][W units].

  static long gates_size(const WeightShape& shape) {
    return whole<T>(shape.depth) * shape.gates * blocks_of<T>(shape.units) * W<T>;
  }

  template <int GATES>
  static void pack_gates_of(const Worker& worker, const T* weight, const WeightShape& shape,
                            T* packed) {
    const long blocks = blocks_of<T>(shape.units), panels = divide_up(blocks, blocks_abreast<GATES>);
    const long size = gates_size({GATES, W<T>, shape.depth});  // of a block
    const Range mine = part(panels, worker.id, worker.count);
    for (long i = mine.begin; i < mine.end; ++i) {
      const Range panel = part(blocks, i, panels);
      pack_gates<GATES>(weight, shape, panel.begin * W<T>, panel.end - panel.begin, 0, shape.depth,
                        packed + panel.begin * size);
    }
  }

  // The rows `rows` of h as `gates` reads them, by the same numbers. Each worker makes its own, which
  // takes less than to wait for each other.
  FL_INLINE static Rows<T> ready(const Worker& worker, const Lane<T>& lane, Rows<T> left,
                                 Range rows) {
    if constexpr (by_unit<T>) {
      const long depth = lane.outputs, stride = ready_stride<T>(depth);
      T* const own = lane.ready + worker.id * lane.batch * stride;
      make_ready(left.data + rows.begin * left.stride, left.stride, rows.end - rows.begin, depth,
                 own);
      return {own - rows.begin * stride, stride};
    } else {
      return left;
    }
  }

  // For this worker's tiles of the rows `rows`, R rows from `row` on by the units of some blocks,
  // of which `unit` is the first: begin(tile, unit, row), which says what the sums begin with, then
  // end(tile, unit, row). The left factor is ready.
  template <int GATES, class Begin, class End>
  FL_INLINE static void gates(const Worker& worker, Rows<T> left, Range rows,
                              const WeightShape& shape, const T* packed, bool backwards,
                              const Begin& begin, const End& end) {
    const long blocks = blocks_of<T>(shape.units), depth = shape.depth;
    const long size = gates_size({GATES, W<T>, depth});  // of a block
    const long batch = rows.end - rows.begin;
    const bool cached = blocks * depth * GATES * vector_bytes<T> <= worker.count * fetching().kept ||
                        batch < fetching().rows;
    UnitScope scope;
    for_shares(worker, batch, blocks, blocks_abreast<GATES>, gates_tile<GATES>.rows, backwards,
               [&](const Share& share) {
      const T* panel = packed + share.first * size;
      const long own = share.vectors * size, next = share.first + (backwards ? -1 : share.vectors);
      const bool last = next < 0 || next == blocks;
      for_tiles<gates_tile<GATES>.rows, blocks_abreast<GATES>>(
          share, rows, [&](auto height, auto abreast, long row) {
        constexpr int R = decltype(height)::value;
        Ahead<T> ahead;
        if (!cached && !last) {
          ahead = ahead_of(backwards ? panel - own : panel + own, own, row - rows.begin, R, batch,
                           divide_up(depth, line<T>));
        }
        Tile<T, R, decltype(abreast)::value * GATES> tile;
        scope.template configure<R>();
        begin(tile, share.first * W<T>, row);
        if constexpr (by_unit<T>) {
          multiply_ready(tile, left.data + row * left.stride, left.stride, depth, panel);
        } else {
          multiply_rows(tile, left.data + row * left.stride, left.stride, depth, panel, ahead);
        }
        end(tile, share.first * W<T>, row);
      });
    });
  }

  // --- out[b] = left[b] weight, weight [depth, columns] ---
  //
  // A panel holds at most plain_tile.vectors vectors of columns. The depth is that of the left-hand
  // factor's blocks.

  static long columns_size(const WeightShape& shape) {
    return shape.gates * whole<T>(shape.units) * blocks_of<T>(shape.depth) * W<T>;
  }

  static void pack_columns_of(const Worker& worker, const T* weight, const Blocks<T>& left,
                              long columns, T* packed) {
    const Range mine = whole_part(left.count(), worker.id, worker.count, Blocks<T>::abreast);
    for_panels(columns, [&](Range own) {
      const long column = own.begin * W<T>;
      const Panel<T> panel{packed + left.depth(left.count()) * column, own.end - own.begin};
      pack_for_blocks(left, mine, weight, columns, column, columns - column, panel,
                      left.depth(mine.begin));
    });
  }

  // Packs a transposed weight [columns, depth] likewise.
  static void pack_transposed_of(const Worker& worker, const T* weight, long depth, long columns,
                                 T* packed) {
    const Range mine = part(blocks_of<T>(columns), worker.id, worker.count);
    for_panels(columns, [&](Range own) {
      const long n = own.end - own.begin;
      for (long i = max(own.begin, mine.begin); i < min(own.end, mine.end); ++i) {
        T* const panel = packed + whole<T>(depth) * own.begin * W<T>;
        pack_transposed(weight + i * W<T> * depth, depth, columns - i * W<T>, depth,
                        panel + (i - own.begin) * W<T> * deep<T>, n * W<T>);
      }
    });
  }

  // For this worker's tiles of the rows `rows`: end(tile, first, row), `first` being the tile's
  // first vector of columns. Row b of left is its row `line` + b in blocks. A panel is read by
  // every tile in parts, so that it comes from the L2 cache; between parts the sums lie in `sums`.
  template <class End>
  FL_INLINE static void columns(const Worker& worker, const Blocks<T>& left, long line, Range rows,
                                long columns, const T* packed, bool backwards, Sum<T>* sums,
                                const End& end) {
    const long vectors = blocks_of<T>(columns), batch = rows.end - rows.begin;
    const long depth = left.depth(left.count());
    const bool cached = vectors * depth * vector_bytes<T> <= worker.count * fetching().kept ||
                        batch < fetching().rows;
    UnitScope scope;
    for_shares(worker, batch, vectors, plain_tile.vectors, plain_tile.rows, backwards,
               [&](const Share& share) {
      const long lanes = share.vectors * W<T>, size = lanes * depth;
      const T* panel = packed + share.first * depth * W<T>;
      const bool last = backwards ? share.first == 0 : share.first + share.vectors == vectors;
      const T* next_panel = cached || last ? nullptr : backwards ? panel - size : panel + size;
      const long bytes = share.vectors * depth * vector_bytes<T>;
      const long parts = batch > panel_rows ? 1 : parts_of(bytes, fetching().part);
      for (long i = 0; i < parts; ++i) {
        const Range range = whole_part(left.count(), i, parts, Blocks<T>::abreast);
        const T* here = panel + left.depth(range.begin) * lanes;
        const T* next = panel + left.depth(range.end) * lanes;
        const long count = next - here;
        if (i + 1 == parts) next = next_panel;
        for_plain_tiles(share, rows, [&](auto height, auto width, long row) {
          constexpr int R = decltype(height)::value, N = decltype(width)::value;
          Tile<T, R, N> tile;
          scope.template configure<R>();
          Sum<T>* const kept = sums + (row - rows.begin) * lanes;
          clear(tile);
          if (by_unit<T> && i > 0) load(tile, kept, lanes, lanes);  // as `product` does
          Ahead<T> ahead;
          if (next && !cached) {
            ahead = ahead_of(next, count, row - rows.begin, R, batch, range.end - range.begin);
          }
          multiply_blocks(tile, left, line + row, range, here, ahead);
          if (!by_unit<T> && i > 0) add(tile, kept, lanes, lanes);
          if (i + 1 < parts) {
            store(tile, kept, lanes, lanes);
          } else {
            Tile<T, R, N> made = tile;  // may be indexed by what is no constant
            end(made, share.first, row);
          }
        });
      }
    });
  }

  // Multiplies rows that are contiguous.
  template <class End>
  FL_INLINE static void columns(const Worker& worker, Rows<T> left, Range rows, long depth,
                                long columns, const T* packed, const End& end) {
    UnitScope scope;
    for_shares(worker, rows.end - rows.begin, blocks_of<T>(columns), plain_tile.vectors,
               plain_tile.rows, false, [&](const Share& share) {
      const T* panel = packed + whole<T>(depth) * share.first * W<T>;
      for_plain_tiles(share, rows, [&](auto height, auto width, long row) {
        Tile<T, decltype(height)::value, decltype(width)::value> tile;
        scope.template configure<decltype(height)::value>();
        clear(tile);
        multiply_rows(tile, left.data + row * left.stride, left.stride, depth, panel);
        end(tile, share.first, row);
      });
    });
  }

 private:
  template <class Body>
  FL_INLINE static void for_panels(long columns, const Body& body) {
    const long vectors = blocks_of<T>(columns), panels = divide_up(vectors, plain_tile.vectors);
    for (long i = 0; i < panels; ++i) body(part(vectors, i, panels));
  }
};

}  // namespace fused_lstm::FL_ISA
