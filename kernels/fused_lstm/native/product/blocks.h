// Matrices kept in blocks of W columns.
//
// Element (row, column) lies at [column / W][row][column % W]. A vector store fills a line of it,
// and it serves as either factor, row by row or transposed, without a copy. The columns come in
// groups (the four gates) of `units` each; a group's last block may be partial, and then the rest
// of its lanes is never used.
#pragma once

#include "product/divide.h"
#include "product/tile.h"

namespace fused_lstm::FL_ISA {

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

// R rows from `row` on of the N blocks from `first` on.
template <class T, int R, int N>
FL_INLINE void store(const Tile<T, R, N>& tile, const Blocks<T>& blocks, long first, long row) {
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < N; ++n) store(blocks.at(first + n, row + r), tile.sum[r][n]);
  }
}

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

}  // namespace fused_lstm::FL_ISA
