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

// Rows of a matrix, `stride` apart, the `count` gates of the units of some blocks: vectors of a tile are
// [blocks][count]. A gate is `units` columns further on than the one before; of the units from the
// first block's on, `width` exist.
//
// Returns where they lie: where they are if all exist, else copied to the tile's memory.
template <class T>
FL_INLINE Place<T> load_gates(const Sums<T>& tile, long count, const Sum<T>* gates, long stride,
                              long units, long width) {
  const long end = tile.blocks(count) * W<T>;
  if (end <= width) return {const_cast<Sum<T>*>(gates), stride, count > 1 ? units : W<T>};
  Vec<T>* sum = tile.data;
  for (long r = 0; r < tile.rows; ++r, gates += stride) {
    for (long first = 0; first < end; first += W<T>) {
      for (long gate = 0; gate < count; ++gate) {
        *sum++ = load(gates + gate * units + first, width - first);
      }
    }
  }
  return place_of(tile);
}

// Fetches gates likewise into the L2 cache, lines that the hardware does not guess: waiting for them
// was an eighth of a step on a Zen 4. They may lie beyond the matrix.
template <class T>
FL_INLINE void prefetch_gates(const Sums<T>& tile, long count, const Sum<T>* gates, long stride,
                              long units) {
  const long vector = count > 1 ? units : W<T>;
  with_constant<max_vectors>(tile.vectors, [&](auto vectors) {
    for (const Sum<T>* row = gates; row != gates + tile.rows * stride; row += stride) {
      FL_UNROLL for (int v = 0; v < vectors.value; ++v) __builtin_prefetch(row + v * vector, 0, 2);
    }
  });
}

template <class T>
FL_INLINE void store_gates(const Sums<T>& tile, long count, Sum<T>* gates, long stride,
                           long units, long width) {
  const long end = tile.blocks(count) * W<T>;
  const Vec<T>* sum = tile.data;
  for (long r = 0; r < tile.rows; ++r, gates += stride) {
    for (long first = 0; first < end; first += W<T>) {
      for (long gate = 0; gate < count; ++gate) {
        store(gates + gate * units + first, *sum++, width - first);
      }
    }
  }
}

// Multiplies a single row: gates = begin + what add(tile, block) adds for ABREAST blocks of units, or those
// of them that exist. A cell finishes several blocks at once, since these do not wait for each other.
template <class T, long ABREAST = 1, class Begin, class Add, class End>
FL_INLINE void gates_of_a_row(const Worker& worker, long row, const WeightShape& shape, bool backwards,
                              const Begin& begin, const Add& add, const End& end) {
  Vec<T> memory[one_row * tile_gates];
  const long gates = shape.gates;
  static_assert(one_row % ABREAST == 0);
  const Range mine = whole_part(blocks_of<T>(shape.units), worker.id, worker.count, ABREAST);
  const long groups = divide_up(mine.end - mine.begin, one_row);
  for (long group = 0; group < groups; ++group) {
    const long first = mine.begin + (backwards ? groups - 1 - group : group) * one_row;
    const long count = min(mine.end - first, one_row);
    const long adds = divide_up(count, ABREAST);
    for (long n = 0; n < adds; ++n) {
      const long at = (backwards ? adds - 1 - n : n) * ABREAST, next = min(at + ABREAST, count);
      for (long i = at; i < next; ++i) {
        const Sums<T> tile{memory + i * gates, 1, gates};
        bring(tile, begin(tile, (first + i) * W<T>, row));
      }
      add(Sums<T>{memory + at * gates, 1, (next - at) * gates, next - at}, first + at);
    }
    end(Sums<T>{memory, 1, count * gates, count}, first * W<T>, row);
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

  static void pack_gates_of(const Worker& worker, const T* weight, const WeightShape& shape,
                            T* packed) {
    const long blocks = blocks_of<T>(shape.units);
    const long panels = divide_up(blocks, blocks_abreast(shape.gates));
    const long size = gates_size({shape.gates, W<T>, shape.depth});  // of a block
    const Range mine = part(panels, worker.id, worker.count);
    for (long i = mine.begin; i < mine.end; ++i) {
      const Range panel = part(blocks, i, panels);
      pack_gates(weight, shape, panel.begin * W<T>, panel.end - panel.begin, 0, shape.depth,
                 packed + panel.begin * size);
    }
  }

  // The rows `rows` of a factor of so many columns as `gates` reads them, by the same numbers. Each
  // worker makes its own, which takes less than to wait for each other; behind those of another factor of
  // `before` columns.
  FL_INLINE static Rows<T> ready(const Worker& worker, const Lane<T>& lane, Rows<T> left,
                                 long depth, Range rows, long before = 0) {
    if constexpr (by_unit<T>) {
      const long stride = ready_stride<T>(depth);
      const long others = before > 0 ? worker.count * lane.batch * ready_stride<T>(before) : 0;
      T* const own = lane.scratch.ready + others + worker.id * lane.batch * stride;
      make_ready(left.data + rows.begin * left.stride, left.stride, rows.end - rows.begin, depth,
                 own);
      return {own - rows.begin * stride, stride};
    } else {
      return left;
    }
  }

  // For this worker's tiles of the rows `rows`, some rows from `row` on by the units of some blocks,
  // of which `unit` is the first: begin(tile, unit, row), which returns where the sums begin, then
  // end(tile, unit, row). The left factor is ready.
  template <class Begin, class End>
  static void gates(const Worker& worker, Rows<T> left, Range rows, const WeightShape& shape,
                    const T* packed, bool backwards, const Begin& begin, const End& end) {
    const long blocks = blocks_of<T>(shape.units), depth = shape.depth;
    const long size = gates_size({shape.gates, W<T>, depth});  // of a block
    const long batch = rows.end - rows.begin;
    const long bytes = blocks * depth * shape.gates * vector_bytes<T>;
    const bool cached = bytes <= worker.count * fetching().kept || batch < fetching().rows;
    const long tallest = gates_tile(shape.gates).rows;
    UnitScope scope;
    TileMemory<T> memory;
    for_shares(worker, batch, blocks, divide_up(blocks, blocks_abreast(shape.gates)), tallest, backwards,
               [&](const Share& share) {
      const T* panel = packed + share.first * size;
      const long own = share.vectors * size, next = share.first + (backwards ? -1 : share.vectors);
      const bool last = next < 0 || next == blocks;
      for_heights(tallest, share, rows, [&](long height, long row) {
        Ahead<T> ahead;
        if (!cached && !last) {
          ahead = ahead_of(backwards ? panel - own : panel + own, own, row - rows.begin, height,
                           batch, divide_up(depth, line<T>));
        }
        const Sums<T> tile = memory.of(height, share.vectors * shape.gates);
        scope.configure(height);
        const Place<T> from = begin(tile, share.first * W<T>, row);
        if constexpr (by_unit<T>) {
          bring(tile, from);
          multiply_ready(tile, left.data + row * left.stride, left.stride, depth, panel);
        } else {
          multiply_rows(tile, from, left.data + row * left.stride, left.stride, depth, panel, ahead);
        }
        end(tile, share.first * W<T>, row);
      });
    });
  }

  // gates[b] = begin + first[b] weight' of the first product, of `inputs` columns, then + left[b] weight';
  // between(tile, unit, row) sees what the first one made.
  template <class Begin, class Between, class End>
  FL_INLINE static void gates_of_two(const Worker& worker, Rows<T> first, long inputs, const T* w_first,
                                     Rows<T> left, Range rows, const WeightShape& shape, const T* packed,
                                     bool backwards, const Begin& begin, const Between& between,
                                     const End& end) {
    const long size = gates_size({shape.gates, W<T>, inputs});
    gates(
        worker, left, rows, shape, packed, backwards,
        [&](const Sums<T>& tile, long unit, long row) {
          const Place<T> from = begin(tile, unit, row);
          const T* const own = first.data + row * first.stride;
          const T* const panel = w_first + unit / W<T> * size;
          if constexpr (by_unit<T>) {
            bring(tile, from);
            multiply_ready(tile, own, first.stride, inputs, panel);
          } else {
            multiply_rows(tile, from, own, first.stride, inputs, panel);
          }
          between(tile, unit, row);
          return place_of(tile);
        },
        end);
  }

  // --- out[b] = left[b] weight, weight [depth, columns] ---
  //
  // A panel holds at most plain_tile.vectors vectors of columns. The depth is that of the left-hand
  // factor's blocks.

  // How many panels there are of a product of at most `rows` rows. If rows are one tile high, as many for each
  // worker, where they stay two vectors wide: of H = 128 two workers of AVX-512 would have three panels, five
  // vectors for the one and three for the other. A matrix unit's registers stay full.
  static long panels_of(long columns, long rows, long workers) {
    const long vectors = blocks_of<T>(columns), fewest = plain_panels(vectors);
    if (by_unit<T> || rows > plain_tile.rows) return fewest;
    return max(fewest, min(divide_up(fewest, workers) * workers, vectors / 2));
  }

  static long columns_size(const WeightShape& shape) {
    return shape.gates * whole<T>(shape.units) * blocks_of<T>(shape.depth) * W<T>;
  }

  static void pack_columns_of(const Worker& worker, const T* weight, const Blocks<T>& left,
                              long columns, long panels, T* packed) {
    const Range mine = whole_part(left.count(), worker.id, worker.count, Blocks<T>::abreast);
    for_panels(columns, panels, [&](Range own) {
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
    for_panels(columns, plain_panels(blocks_of<T>(columns)), [&](Range own) {
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
  static void columns(const Worker& worker, const Blocks<T>& left, long line, Range rows,
                      long columns, long panels, const T* packed, bool backwards, Sum<T>* sums,
                      const End& end) {
    const long vectors = blocks_of<T>(columns), batch = rows.end - rows.begin;
    const long depth = left.depth(left.count());
    const bool cached = vectors * depth * vector_bytes<T> <= worker.count * fetching().kept ||
                        batch < fetching().rows;
    UnitScope scope;
    TileMemory<T> memory;
    for_shares(worker, batch, vectors, panels, plain_tile.rows, backwards,
               [&](const Share& share) {
      const long lanes = share.vectors * W<T>, size = lanes * depth;
      const T* panel = packed + share.first * depth * W<T>;
      const bool last = backwards ? share.first == 0 : share.first + share.vectors == vectors;
      const T* next_panel = cached || last ? nullptr : backwards ? panel - size : panel + size;
      // The widest panel that there may be, so that a sum does not depend on the workers.
      const long bytes = min(vectors, plain_tile.vectors) * depth * vector_bytes<T>;
      const long parts = batch > panel_rows ? 1 : parts_of(bytes, fetching().part);
      for (long i = 0; i < parts; ++i) {
        const Range range = whole_part(left.count(), i, parts, Blocks<T>::abreast);
        const T* here = panel + left.depth(range.begin) * lanes;
        const T* next = panel + left.depth(range.end) * lanes;
        const long count = next - here;
        if (i + 1 == parts) next = next_panel;
        for_heights(plain_tile.rows, share, rows, [&](long height, long row) {
          const Sums<T> tile = memory.of(height, share.vectors);
          scope.configure(height);
          Sum<T>* const kept = sums + (row - rows.begin) * lanes;
          if (by_unit<T>) clear(tile);
          if (by_unit<T> && i > 0) load(tile, kept, lanes, lanes);  // as `product` does
          Ahead<T> ahead;
          if (next && !cached) {
            ahead = ahead_of(next, count, row - rows.begin, height, batch, range.end - range.begin);
          }
          multiply_blocks(tile, left, line + row, range, here, ahead);
          if (!by_unit<T> && i > 0) add(tile, kept, lanes, lanes);
          if (i + 1 < parts) {
            store(tile, kept, lanes, lanes);
          } else {
            end(tile, share.first, row);
          }
        });
      }
    });
  }

  // Multiplies rows that are contiguous.
  template <class End>
  static void columns(const Worker& worker, Rows<T> left, Range rows, long depth,
                      long columns, const T* packed, const End& end) {
    UnitScope scope;
    TileMemory<T> memory;
    const long vectors = blocks_of<T>(columns);
    for_shares(worker, rows.end - rows.begin, vectors, plain_panels(vectors),
               plain_tile.rows, false, [&](const Share& share) {
      const T* panel = packed + whole<T>(depth) * share.first * W<T>;
      for_heights(plain_tile.rows, share, rows, [&](long height, long row) {
        const Sums<T> tile = memory.of(height, share.vectors);
        scope.configure(height);
        multiply_rows(tile, Place<T>{}, left.data + row * left.stride, left.stride, depth, panel);
        end(tile, share.first, row);
      });
    });
  }

 private:
  template <class Body>
  FL_INLINE static void for_panels(long columns, long panels, const Body& body) {
    for (long i = 0; i < panels; ++i) body(part(blocks_of<T>(columns), i, panels));
  }
};

}  // namespace fused_lstm::FL_ISA
