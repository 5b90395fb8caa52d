// Matrices kept in blocks of W columns.
//
// Element (row, column) lies at [column / W][row][column % W]. A vector store fills a line of it,
// and it serves as either factor, row by row or transposed, without a copy. The columns come in
// groups (the four gates) of `units` each; a group's last block may be partial, and then the rest
// of its lanes is never used.
//
// Of bfloat16 a row by row factor is read in pairs of columns, so a partial block ends in zeros
// (`store_left`). The transposed one needs pairs of rows, which `pair_rows` makes of them in place.
#pragma once

#include "product/divide.h"
#include "product/tile.h"

namespace fused_lstm::FL_ISA {

// The worker's own, of `panels` for all workers.
template <class T>
FL_INLINE T* panel_of(const Worker& worker, T* panels) {
  return panels + worker.id * panel_size<T>;
}

// The same memory where no panel is packed: sums of as many rows of a panel's width.
template <class T>
FL_INLINE Sum<T>* sums_of(T* panel) {
  return reinterpret_cast<Sum<T>*>(panel);
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
  FL_INLINE static long distance(long rows) {
    return (divide_up(rows, deep<T>) | 1) * deep<T> * W<T>;
  }
  FL_INLINE static long size(long groups, long units, long rows) {
    return groups * blocks_of<T>(units) * distance(rows);
  }
  FL_INLINE long in_group() const { return blocks_of<T>(units); }
  FL_INLINE long count() const { return groups * in_group(); }
  FL_INLINE T* at(long block, long row) const {
    return data + block * distance(rows) + row * W<T>;
  }
  FL_INLINE long width(long block) const {  // columns that exist
    return min(units - block % in_group() * W<T>, W<T>);
  }
  FL_INLINE long column(long block) const {  // its first one, counted without gaps
    return block / in_group() * units + block % in_group() * W<T>;
  }
  FL_INLINE long depth(long block) const {  // the same in a panel, whose groups are whole
    return block / in_group() * whole<T>(units) + block % in_group() * W<T>;
  }
};

// R rows from `row` on of the N blocks from `first` on.
template <class T, int R, int N>
FL_INLINE void store(const Tile<T, R, N>& tile, const Blocks<T>& blocks, long first, long row) {
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) {
      store_left(blocks.at(first + n, row + r), tile.sum[r][n], blocks.width(first + n));
    }
  }
}

// Rows of a whole number of lanes.
template <class T>
FL_INLINE Range whole_part(long rows, long index, long parts) {
  const Range n = part(divide_up(rows, deep<T>), index, parts);
  return {n.begin * deep<T>, min(n.end * deep<T>, rows)};
}

// Makes pairs of rows, for a transposed factor, of pairs of columns; a last row may lack another.
template <class T>
void pair_rows(const Worker& worker, const Blocks<T>& blocks) {
  if constexpr (deep<T> > 1) {
    const Range mine = part(blocks.count(), worker.id, worker.count);
    for (long block = mine.begin; block < mine.end; ++block) {
      for (long row = 0; row < blocks.rows; row += deep<T>) {
        T* const at = blocks.at(block, row);
        const Vec<T> a = load(at), b = row + 1 < blocks.rows ? load(at + W<T>) : Vec<T>{};
        store_part(at, a, 0);
        store_part(at, b, 1);
      }
    }
  }
}

// tile += left[row .. row + R, blocks of `range`] * panel; the panel begins with the range.
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
    panel += whole<T>(width) * N * W<T>;
    unit = unit + W<T> < left.units ? unit + W<T> : 0;
  }
}

}  // namespace fused_lstm::FL_ISA
