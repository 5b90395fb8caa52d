// The two large products that a matrix in blocks (see blocks.h) is a factor of.
#pragma once

#include "product/blocks.h"
#include "product/pack.h"

namespace fused_lstm::FL_ISA {

// Divides a product into parts. Calls body(rows, depth, share) for those that this worker has a
// share of, `rows` of the left-hand factor by `depth`, a range of its `blocks` blocks of W columns.
// One worker has all of a tile's parts, in the order of k.
template <class T, class Body>
FL_INLINE void for_parts(const Worker& worker, long rows, long blocks, long vectors,
                         const Body& body) {
  constexpr long tallest = part_bytes / sizeof(T) / part_depth<T>;
  const long heights = parts_of(rows, tallest), depths = parts_of(blocks * W<T>, part_depth<T>);
  for (long i = 0; i < heights * depths; ++i) {
    const Range own = part(rows, i / depths, heights);
    const Range depth = whole_part(blocks, i % depths, depths, Blocks<T>::abreast);
    for_shares(worker, own.end - own.begin, vectors, plain_panels(vectors), plain_tile.rows, false,
               [&](const Share& share) { body(own, depth, share); });
  }
}

// out[rows, columns] = left * right, or += where `sum`; right has `columns` columns and, as rows,
// the existing columns of `left`. A unit's sums go on from part to part: the same bits as in one.
template <class T>
void product(const Worker& worker, const Blocks<T>& left, const T* right, long columns, bool sum,
             Sum<T>* out, T* panel) {
  UnitScope scope;
  TileMemory<T> memory;
  for_parts<T>(worker, left.rows, left.count(), blocks_of<T>(columns),
               [&](Range rows, Range depth, const Share& share) {
    const long column = share.first * W<T>, width = columns - column;
    pack_for_blocks(left, depth, right, columns, column, width, Panel<T>{panel, share.vectors});
    for_heights(plain_tile.rows, share, rows, [&](long height, long row) {
      const Sums<T> tile = memory.of(height, share.vectors);
      Sum<T>* const target = out + row * columns + column;
      const bool begun = depth.begin > 0 || sum;
      prefetch(tile, target, columns);
      scope.configure(height);
      if (by_unit<T>) clear(tile);
      if (by_unit<T> && begun) load(tile, target, columns, width);
      multiply_blocks(tile, left, row, depth, panel);
      if (!by_unit<T> && begun) add(tile, target, columns, width);
      store(tile, target, columns, width);
    });
  });
}

// out[existing columns of left, columns] = left' * right, where pack(rows, column, panel) fills a
// panel with rows of right, and the rows of `left` are paired. Parts as above: a range of rows,
// which is k here, by a range of blocks. `partial`, as large as out, has the sums of all parts but
// the last; it may be out. Calls each(block, rows) once for each block and part of its rows, just
// before they are read.
struct Nothing {
  void operator()(long, Range) const {}
};

template <class T, class U, class Pack, class Each = Nothing>
void transposed_product(const Worker& worker, const Blocks<T>& left, long columns, U* out,
                        Sum<T>* partial, T* panel, const Pack& pack, const Each& each = {}) {
  constexpr long height = transposed_tile<T>.rows, widest = transposed_tile<T>.vectors;
  constexpr long tiles = W<T> / height;  // in a block
  const long depths = parts_of(left.rows, transposed_depth<T>);
  const long bytes = left.count() * left.rows * vector_bytes<T>;
  const long widths = parts_of(bytes, depths * transposed_bytes);
  UnitScope scope;
  TileMemory<T> memory;
  for (long i = 0; i < depths * widths; ++i) {
    const Range rows = whole_part(left.rows, i / widths, depths, grain<T>);
    const Range own = part(left.count(), i % widths, widths);
    const bool last = rows.end == left.rows;
    const long vectors = blocks_of<T>(columns);
    for_shares(worker, (own.end - own.begin) * tiles, vectors, divide_up(vectors, widest), 1, false,
               [&](const Share& share) {
      const long column = share.first * W<T>, width = columns - column;
      const Panel<T> right{panel, share.vectors};
      pack(rows, column, right);
      right.clear_rest(rows.end - rows.begin);
      for (long j = share.blocks.begin; j < share.blocks.end; ++j) {
        const long block = own.begin + j / tiles, unit = j % tiles * height;
        if (share.first == 0 && unit == 0) each(block, rows);
        const long exist = min(left.width(block) - unit, height);
        if (exist <= 0) continue;
        const long at = (left.column(block) + unit) * columns + column;
        const Sums<T> tile = memory.of(height, share.vectors);
        scope.configure(height);
        const bool all = exist == height && share.vectors * W<T> <= width;
        const auto multiply = [&](const Place<T>& from, const auto& to) {
          multiply_transposed(tile, from, to, left, block, unit, rows, panel);
        };
        if (!by_unit<T> && all) {  // from where they lie to where they stay
          const Place<T> kept = {partial + at, columns, W<T>};
          const Place<T> from = rows.begin > 0 ? kept : Place<T>{};
          if (last) multiply(from, Place<T, U>{out + at, columns, W<T>});
          if (!last) multiply(from, kept);
          continue;
        }
        if (last) prefetch(tile, out + at, columns);
        if (rows.begin > 0) {
          clear(tile);
          load(tile, partial + at, columns, width, exist);
        }
        multiply(rows.begin > 0 ? place_of(tile) : Place<T>{}, place_of(tile));
        if (last) store(tile, out + at, columns, width, exist);
        if (!last) store(tile, partial + at, columns, width, exist);
      }
    });
  }
}

}  // namespace fused_lstm::FL_ISA
