// Matrices kept in blocks of W columns.
//
// Element (row, column) lies at [column / W][row][column % W]. A vector store fills a line of it,
// and it serves as either factor, row by row or transposed, without a copy. The columns come in
// groups (the gates) of `units` each; a group's last block may be partial, and then the rest of its
// lanes is never used. The first group is number `turn` of the same columns elsewhere, and the ones
// behind the last are those that come before it.
//
// Of bfloat16 a row by row factor is read in pairs of columns, so a partial block ends in zeros
// (`store_left`). The transposed one needs pairs of rows, which `pair_rows` makes of them in place.
// A matrix unit (see unit.h) reads 32 columns of a row at once: two blocks lie side by side, a
// group has an even number of them, and what is paired is 32 rows by the columns of a block.
// float32 that it reads as sums of bfloat16 lies the same way, and is paired as it is read.
#pragma once

#include "product/divide.h"
#include "product/tile.h"
#include "product/unit_scope.h"
#ifdef FL_UNIT
#include "product/unit.h"
#endif

namespace fused_lstm::FL_ISA {

// The worker's own, of `panels` for all workers.
template <class T>
FL_INLINE T* panel_of(const Worker& worker, T* panels) {
  return panels + worker.id * panel_size<T>;
}

// A worker's panel as memory for sums, if none is packed: as many rows of a panel's width.
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
  long turn = 0;

  static constexpr long abreast = max(grain<T> / W<T>, 1);  // blocks side by side

  // From blocks to the next ones: an odd number of vectors, so that the blocks of one row do not all fall
  // into the same cache set.
  FL_INLINE static long distance(long rows) {
    return (whole<T>(rows) * abreast / deep<T> | 1) * deep<T> * W<T>;
  }
  FL_INLINE static long size(long groups, long units, long rows) {
    return groups * divide_up(units, abreast * W<T>) * distance(rows);
  }
  FL_INLINE long in_group() const { return divide_up(units, abreast * W<T>) * abreast; }
  FL_INLINE long count() const { return groups * in_group(); }
  FL_INLINE T* at(long block, long row) const {
    return data + block / abreast * distance(rows) + row * abreast * W<T> + block % abreast * W<T>;
  }
  // The pairs of rows from `row` on, the first of a whole part.
  FL_INLINE T* paired_at(long block, long row) const {
    return at(block / abreast * abreast, row) + block % abreast * grain<T> * W<T>;
  }
  FL_INLINE long width(long block) const {  // columns that exist
    return max(min(units - block % in_group() * W<T>, W<T>), 0);
  }
  FL_INLINE long column(long block) const {  // its first one elsewhere, counted without gaps
    return (block / in_group() + turn) % groups * units + block % in_group() * W<T>;
  }
  FL_INLINE long depth(long block) const {  // in a panel, whose groups are whole and do not turn
    return block / in_group() * whole<T>(units) + block % in_group() * W<T>;
  }
};

// `count` of the groups from `first` on.
template <class T>
FL_INLINE Blocks<T> groups_of(const Blocks<T>& all, long first, long count, long turn) {
  T* const data = all.data ? all.at(first * all.in_group(), 0) : nullptr;
  return {data, count, all.units, all.rows, turn};
}

// Elements of rows made ready, of any kind of factor.
template <class T>
long ready_size(long rows, long depth) {
  if constexpr (by_unit<T>) return rows * ready_stride<T>(depth);
  return 0;
}

// Rows from `row` on of the blocks from `first` on.
template <class T>
FL_INLINE void store(const Sums<T>& tile, const Blocks<T>& blocks, long first, long row) {
  for (long r = 0; r < tile.rows; ++r) {
    for (long n = 0; n < tile.vectors; ++n) {
      store_left(blocks.at(first + n, row + r), tile[r][n], blocks.width(first + n));
    }
  }
}

// A part of so many rows, or blocks, that is divided between grains alone.
FL_INLINE Range whole_part(long total, long index, long parts, long grain) {
  const Range n = part(divide_up(total, grain), index, parts);
  return {n.begin * grain, min(n.end * grain, total)};
}

// tile = left[row .. row + R, blocks of `range`] * panel, or of a matrix unit +=; the panel begins with
// the range.
template <class T>
struct OfBlocks {
  template <int R, int N>
  struct Kernel {
    __attribute__((noinline)) static void run(const Place<T>& to, const Blocks<T>& of, long row,
                                              Range range, const T* panel, Ahead<T> ahead) {
      const Blocks<T> left = of;
      Tile<T, R, N> tile;
      clear(tile);
      long unit = range.begin % left.in_group() * W<T>;  // a division here, and none for each block
      for (long block = range.begin; block < range.end; ++block) {
        FL_UNROLL for (int r = 0; r < R; ++r) {  // too far apart for the hardware to guess
          __builtin_prefetch(left.at(block + 2, row + r));
        }
        ahead.fetch();
        const long width = min(left.units - unit, W<T>);
        multiply<1>(tile, left.at(block, row), W<T>, width, panel);
        panel += whole<T>(width) * N * W<T>;
        unit = unit + W<T> < left.units ? unit + W<T> : 0;
      }
      leave(tile, to);
    }
  };
};

template <class T>
FL_INLINE void multiply_blocks(const Sums<T>& tile, const Blocks<T>& left, long row, Range range,
                               const T* panel, Ahead<T> ahead = {}) {
  if constexpr (by_unit<T>) {
    constexpr long abreast = Blocks<T>::abreast;
    multiply_tiles(tile, left.at(range.begin, row), abreast * W<T>, left.distance(left.rows),
                   (range.end - range.begin) / abreast, panel);
  } else {
    kernel_of<OfBlocks<T>::template Kernel>(tile.rows, tile.vectors)(place_of(tile), left, row, range,
                                                                    panel, ahead);
  }
}

// Begins to fetch the place of the sums, to be written when they are known. A row's vectors lie side by
// side in both places: told here, so that a row has one address and not one for each vector.
template <class T, int N, class U>
__attribute__((noinline)) void multiply_transposed(const Place<T>& from, const Place<T, U>& to,
                                                   const T* a, long count, const T* panel) {
  constexpr int rows = transposed_tile<T>.rows;
  const Place<T, U> kept = {to.data, to.row, W<T>};
  const U* row = kept.data;
  FL_UNROLL for (int r = 0; r < rows; ++r, row += kept.row) {
    FL_UNROLL for (int n = 0; n < N; ++n) __builtin_prefetch(row + n * W<T>, 1);
  }
  Tile<T, rows, N> tile;
  take(tile, Place<T>{from.data, from.row, W<T>});
  multiply<W<T>>(tile, a, deep<T>, count, panel);
  leave(tile, kept);
}

// to = from + left[rows, columns from `unit` on of a block]' * panel, of rows that were paired. (A matrix
// unit leaves its sums in the tile's memory, wherever `to` is.)
template <class T, class U>
FL_INLINE void multiply_transposed(const Sums<T>& tile, const Place<T>& from, const Place<T, U>& to,
                                   const Blocks<T>& left, long block, long unit, Range rows,
                                   const T* panel) {
  const long count = rows.end - rows.begin;
  const T* const a = left.paired_at(block, rows.begin) + unit * grain<T>;
  if constexpr (by_unit<T>) bring(tile, from);
  if constexpr (by_terms<T>) {
    multiply_columns(tile, left.at(block, rows.begin) + unit, Blocks<T>::abreast * W<T>, count,
                     panel);
  } else if constexpr (by_unit<T>) {
    multiply_tiles(tile, a, grain<T>, Blocks<T>::abreast * grain<T> * W<T>,
                   divide_up(count, grain<T>), panel);
  } else {
    with_constant<transposed_tile<T>.vectors>(tile.vectors, [&](auto n) {
      multiply_transposed<T, decltype(n)::value>(from, to, a, count, panel);
    });
  }
}

}  // namespace fused_lstm::FL_ISA
