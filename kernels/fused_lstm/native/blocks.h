// Matrices kept in blocks of W columns, and the two large products that they are a factor of.
//
// Element (row, column) lies at [column / W][row][column % W]. A vector store fills a line of it,
// and it serves as either factor, row by row or transposed, without a copy. The columns come in
// groups (the four gates) of `units` each; a group's last block may be partial, and then the rest
// of its lanes is never used.
#pragma once

#include "pack.h"

namespace fused_lstm::FL_ISA {

// --- what is kept in which cache ---

// The rows of a panel that are packed at once: 64 bytes x 4 x 1536 is a third of a 1 MiB L2 cache.
constexpr long panel_rows = 1536;
// Tiles of 16 registers read more for each multiply-add than those of 32, so they gain more by what
// is near. Measured on a Zen 4 with 1 MiB of L2: with AVX-512 these parts cost 4 percent where the
// left-hand factor fits the last-level cache, and fetching ahead as much, or more.
constexpr bool frugal = registers == 32;
// Of the large products' left-hand factor, what stays in the L2 cache, or near it, while all
// columns pass by: `part_bytes`, of `part_depth` in k, so that a panel stays in the L1 cache. Where
// that factor is transposed the same k is a range of rows, and larger parts are better.
constexpr long part_bytes = frugal ? 8 << 20 : 1 << 20, part_depth = frugal ? panel_rows : 256;
constexpr long transposed_bytes = frugal ? 8 << 20 : 2 << 20;
constexpr long transposed_depth = frugal ? panel_rows : 768;
// Of the panels that are packed for all steps: what a worker still has in its L2 cache at the next
// step, and what of one panel it reads again for every tile of a step's rows. Beyond that they are
// fetched ahead.
constexpr long cached_bytes = frugal ? 1L << 40 : 1 << 20;
constexpr long step_bytes = frugal ? 1L << 40 : 192 << 10;

template <class T>
constexpr long panel_size = panel_rows * max_vectors * W<T>;

// The worker's own, of `panels` for all workers.
template <class T>
FL_INLINE T* panel_of(const Worker& worker, T* panels) {
  return panels + worker.id * panel_size<T>;
}

template <class T>
FL_INLINE long blocks_of(long units) {
  return divide_up(units, W<T>);
}

template <class T>
struct Blocks {
  T* data;
  long groups, units, rows;

  // An odd distance, so that the blocks of one row do not all fall into the same cache set.
  FL_INLINE static long size(long groups, long units, long rows) {
    return groups * blocks_of<T>(units) * (rows | 1) * W<T>;
  }
  FL_INLINE long in_group() const { return blocks_of<T>(units); }
  FL_INLINE long count() const { return groups * in_group(); }
  FL_INLINE T* at(long block, long row) const { return data + (block * (rows | 1) + row) * W<T>; }
  FL_INLINE long width(long block) const {  // columns that exist
    return min(units - block % in_group() * W<T>, W<T>);
  }
  FL_INLINE long column(long block) const {  // its first one, counted without gaps
    return block / in_group() * units + block % in_group() * W<T>;
  }
};

// tile += left[row .. row + R, blocks of `range`] * panel; a panel row for each existing column.
template <class T, int R, int N>
FL_INLINE void multiply_blocks(Tile<T, R, N>& tile, const Blocks<T>& left, long row, Range range,
                               const T* panel, Ahead<T> ahead = {}) {
  long unit = range.begin % left.in_group() * W<T>;  // a division here, and none for each block
  for (long block = range.begin; block < range.end; ++block) {
    FL_UNROLL for (int r = 0; r < R; ++r) {  // blocks are too far apart for the hardware to guess
      __builtin_prefetch(left.at(block + 2, row + r));
    }
    ahead.fetch();
    const long width = min(left.units - unit, W<T>);
    multiply<1>(tile, left.at(block, row), W<T>, width, panel);
    panel += width * N * W<T>;
    unit = unit + W<T> < left.units ? unit + W<T> : 0;
  }
}

// Divides a product into parts. Calls body(rows, depth, share) for those that this worker has a
// share of, `rows` of the left-hand factor by `depth`, a range of its `blocks` blocks of W columns.
// One worker has all of a tile's parts, in the order of k.
template <class T, class Body>
FL_INLINE void for_parts(const Worker& worker, long rows, long blocks, long vectors,
                         const Body& body) {
  constexpr long tallest = part_bytes / sizeof(T) / part_depth;
  const long heights = parts_of(rows, tallest), depths = parts_of(blocks * W<T>, part_depth);
  for (long i = 0; i < heights * depths; ++i) {
    const Range own = part(rows, i / depths, heights), depth = part(blocks, i % depths, depths);
    for_shares(worker, own.end - own.begin, vectors, plain_tile.vectors, plain_tile.rows, false,
               [&](const Share& share) { body(own, depth, share); });
  }
}

// out[rows, columns] = left * right, or += where `sum`; right has `columns` columns and, as rows,
// the existing columns of `left`.
template <class T>
void product(const Worker& worker, const Blocks<T>& left, const T* right, long columns, bool sum,
             T* out, T* panel) {
  for_parts<T>(worker, left.rows, left.count(), blocks_of<T>(columns),
               [&](Range rows, Range depth, const Share& share) {
    const long column = share.first * W<T>, width = columns - column;
    const long begin = left.column(depth.begin), end = left.column(depth.end);
    pack_columns(right, columns, begin, end - begin, column, width, share.vectors, panel);
    for_tiles(share, rows, [&](auto height, auto vectors, long row) {
      Tile<T, decltype(height)::value, decltype(vectors)::value> tile;
      T* target = out + row * columns + column;
      prefetch<decltype(height)::value, decltype(vectors)::value>(target, columns);
      clear(tile);
      multiply_blocks(tile, left, row, depth, panel);
      if (depth.begin > 0 || sum) add(tile, target, columns, width);
      store(tile, target, columns, width);
    });
  });
}

// out[existing columns of left, columns] = left' * right, where pack(rows, column, vectors, panel)
// fills a panel with rows of right. Calls each(block, rows) once for each block and range of rows.
// Parts as above: a range of rows, which is k here, by a range of blocks.
template <class T, class Pack, class Each>
void transposed_product(const Worker& worker, const Blocks<T>& left, long columns, T* out,
                        T* panel, const Pack& pack, const Each& each) {
  constexpr long height = transposed_tile<T>.rows, widest = transposed_tile<T>.vectors;
  constexpr long tiles = W<T> / height;  // in a block
  const long depths = parts_of(left.rows, transposed_depth);
  const long bytes = left.count() * left.rows * FL_BYTES;
  const long widths = parts_of(bytes, depths * transposed_bytes);
  for (long i = 0; i < depths * widths; ++i) {
    const Range rows = part(left.rows, i / widths, depths);
    const Range own = part(left.count(), i % widths, widths);
    for_shares(worker, (own.end - own.begin) * tiles, blocks_of<T>(columns), widest, 1, false,
               [&](const Share& share) {
      const long column = share.first * W<T>, width = columns - column;
      pack(rows, column, share.vectors, panel);
      for (long j = share.blocks.begin; j < share.blocks.end; ++j) {
        const long block = own.begin + j / tiles, unit = j % tiles * height;
        if (share.first == 0 && unit == 0) each(block, rows);
        const long exist = min(left.width(block) - unit, height);
        if (exist <= 0) continue;
        T* target = out + (left.column(block) + unit) * columns + column;
        with_constant<widest>(share.vectors, [&](auto vectors) {
          apart([&](auto n) {
            Tile<T, height, decltype(n)::value> tile;
            prefetch<height, decltype(n)::value>(target, columns);
            clear(tile);
            if (rows.begin > 0) load(tile, target, columns, width, exist);
            multiply<W<T>>(tile, left.at(block, rows.begin) + unit, 1, rows.end - rows.begin,
                           panel);
            store(tile, target, columns, width, exist);
          }, vectors);
        });
      }
    });
  }
}

}  // namespace fused_lstm::FL_ISA
