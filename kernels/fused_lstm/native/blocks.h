// Matrices kept in blocks of W columns, and the two large products that they are a factor of.
//
// Element (row, column) lies at [column / W][row][column % W]. A vector store fills a line of it,
// and it serves as either factor, row by row or transposed, without a copy. The columns come in
// groups (the four gates) of `units` each; a group's last block may be partial, and then the rest
// of its lanes is never used.
#pragma once

#include "pack.h"

namespace fused_lstm::FL_ISA {

// The rows of a panel that are packed at once: 64 bytes x 4 x 1536 is a third of a 1 MiB L2 cache.
constexpr long panel_rows = 1536;
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
                               const T* panel) {
  for (long block = range.begin; block < range.end; ++block) {
    FL_UNROLL for (int r = 0; r < R; ++r) {  // blocks are too far apart for the hardware to guess
      __builtin_prefetch(left.at(block + 2, row + r));
    }
    const long width = left.width(block);
    multiply<1>(tile, left.at(block, row), W<T>, width, panel);
    panel += width * N * W<T>;
  }
}

// out[rows, columns] = left * right, or += where `sum`; right has `columns` columns and, as rows,
// the existing columns of `left`.
template <class T>
void product(const Worker& worker, const Blocks<T>& left, const T* right, long columns, bool sum,
             T* out, T* panel) {
  const long parts = divide_up(left.rows, max_rows), at_once = panel_rows / W<T>;
  for_shares(worker, left.rows, blocks_of<T>(columns), max_vectors, max_rows, false,
             [&](const Share& share) {
    const long column = share.first * W<T>, width = columns - column;
    for (long first = 0; first < left.count(); first += at_once) {
      const long last = min(first + at_once, left.count()), begin = left.column(first);
      pack_columns(right, columns, begin, left.column(last) - begin, column, width, share.vectors,
                   panel);
      for (long block = share.blocks.begin; block < share.blocks.end; ++block) {
        const Range n = part(left.rows, block, parts);
        with_constant<max_rows>(n.end - n.begin, [&](auto height) {
          with_constant<max_vectors>(share.vectors, [&](auto vectors) {
            Tile<T, decltype(height)::value, decltype(vectors)::value> tile;
            T* target = out + n.begin * columns + column;
            prefetch<decltype(height)::value, decltype(vectors)::value>(target, columns);
            clear(tile);
            multiply_blocks(tile, left, n.begin, {first, last}, panel);
            if (first > 0 || sum) add(tile, target, columns, width);
            store(tile, target, columns, width);
          });
        });
      }
    }
  });
}

// A tile here takes its rows from one block, so their number divides W: 8 by 3 vectors, or less.
template <class T>
constexpr int transposed_rows = max_rows < 4 || W<T> < 4 ? 2 : W<T> < 8 ? 4 : 8;
template <class T>
constexpr int transposed_vectors = transposed_rows<T> == 8 ? 3 : max_vectors;

// out[existing columns of left, columns] = left' * right, where pack(rows, column, vectors, panel)
// fills a panel with rows of right. Calls each(block, rows) once for each block and range of rows.
template <class T, class Pack, class Each>
void transposed_product(const Worker& worker, const Blocks<T>& left, long columns, T* out,
                        T* panel, const Pack& pack, const Each& each) {
  constexpr int height = transposed_rows<T>;
  const long tiles = W<T> / height;  // in a block
  for_shares(worker, left.count() * tiles, blocks_of<T>(columns), transposed_vectors<T>, 1, false,
             [&](const Share& share) {
    const long column = share.first * W<T>, width = columns - column;
    for (long first = 0; first < left.rows; first += panel_rows) {
      const Range rows{first, min(first + panel_rows, left.rows)};
      pack(rows, column, share.vectors, panel);
      for (long i = share.blocks.begin; i < share.blocks.end; ++i) {
        const long block = i / tiles, unit = i % tiles * height;
        if (share.first == 0 && unit == 0) each(block, rows);
        const long exist = min(left.width(block) - unit, height);
        if (exist <= 0) continue;
        T* target = out + (left.column(block) + unit) * columns + column;
        with_constant<transposed_vectors<T>>(share.vectors, [&](auto vectors) {
          Tile<T, height, decltype(vectors)::value> tile;
          prefetch<height, decltype(vectors)::value>(target, columns);
          clear(tile);
          if (first > 0) load(tile, target, columns, width, exist);
          multiply<W<T>>(tile, left.at(block, first) + unit, 1, rows.end - rows.begin, panel);
          store(tile, target, columns, width, exist);
        });
      }
    }
  });
}

}  // namespace fused_lstm::FL_ISA
