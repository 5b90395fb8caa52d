// How a product's tiles are divided among the workers.
#pragma once

#include "isa/shapes.h"

namespace fused_lstm::FL_ISA {

// --- a number known only at run time as a constant ---

template <int VALUE>
struct Constant {
  static constexpr int value = VALUE;
};

// Calls body(Constant<n>) for 1 <= n <= MAX.
template <int MAX, class Body>
FL_INLINE void with_constant(long n, const Body& body) {
  if constexpr (MAX > 1) {
    if (n < MAX) return with_constant<MAX - 1>(n, body);
  }
  body(Constant<MAX>{});
}

// --- dividing work ---

// How many parts of at most `most` there are in `total`: at least one, so that a sum over no k is
// made too, which is 0.
FL_INLINE long parts_of(long total, long most) { return total > most ? divide_up(total, most) : 1; }

// Part `index` of `parts` nearly equal ones of [0, total).
struct Range {
  long begin, end;
};

FL_INLINE Range part(long total, long index, long parts) {
  return {total * index / parts, total * (index + 1) / parts};
}

// How few panels of plain tiles so many vectors of columns are.
FL_INLINE long plain_panels(long vectors) { return divide_up(vectors, plain_tile.vectors); }

// A panel of columns and the row blocks in it that belong to one worker.
struct Share {
  long first, vectors;  // the panel's first vector column, and how many it has
  Range blocks;         // row blocks, of `divide_up(rows, tallest)` nearly equal ones
};

// Divides a matrix of `rows` x `vectors` vector columns among the workers, first into `panels` nearly
// equal panels, then into row blocks, so that each worker has a contiguous run of tiles and as many
// as the others. Calls body(share) for this worker's panels, in order or backwards.
template <class Body>
FL_INLINE void for_shares(const Worker& worker, long rows, long vectors, long panels,
                          long tallest, bool backwards, const Body& body) {
  const long blocks = divide_up(rows, tallest);
  const long total = vectors * blocks;
  const Range mine = part(total, worker.id, worker.count);
  for (long i = 0; i < panels; ++i) {
    const Range columns = part(vectors, backwards ? panels - 1 - i : i, panels);
    const long width = columns.end - columns.begin, before = columns.begin * blocks;
    // A tile is mine where its middle is.
    long begin = divide_up(2 * (mine.begin - before) - width, 2 * width);
    long end = divide_up(2 * (mine.end - before) - width, 2 * width);
    begin = begin < 0 ? 0 : begin;
    end = min(end, blocks);
    if (begin < end) body(Share{columns.begin, width, {begin, end}});
  }
}

// Calls body(height, row) for the tiles that a share has in the rows `rows`: a tile has `height`
// rows, `tallest` at most, from `row` on.
template <class Body>
FL_INLINE void for_heights(long tallest, const Share& share, Range rows, const Body& body) {
  const long height = rows.end - rows.begin, parts = divide_up(height, tallest);
  for (long block = share.blocks.begin; block < share.blocks.end; ++block) {
    const Range n = part(height, block, parts);
    body(n.end - n.begin, rows.begin + n.begin);
  }
}

}  // namespace fused_lstm::FL_ISA
