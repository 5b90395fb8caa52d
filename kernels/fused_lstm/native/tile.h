// The inner product of everything here: a tile of a few rows by a few vectors held in registers.
//
// A panel is `count` rows of N vectors, contiguous: element (k, n) of the right-hand factor.
// The left-hand factor is read a scalar at a time, wherever it lies.
#pragma once

#include "simd.h"

namespace fused_lstm::FL_ISA {

// The shapes of tiles. R x N sums, a scalar and N vectors of the panel should find a register each;
// where one is missing, `multiply` reads the last vector from the cache. So R = registers / N - 1.
#if FL_BYTES == 64 || defined(__aarch64__)
constexpr int registers = 32;
#else
constexpr int registers = 16;
#endif
#if FL_BYTES > 16 || defined(__aarch64__)
constexpr int usable = registers;
#else
constexpr int usable = registers - 1;  // without FMA: a product needs one before it is added
#endif

template <class T>
constexpr long line = 64 / sizeof(T);  // of the cache

struct Shape {
  long rows, vectors;
};

FL_INLINE long divide_up(long a, long b) { return (a + b - 1) / b; }
constexpr long min(long a, long b) { return a < b ? a : b; }

constexpr Shape tile_of(long vectors) { return {registers / vectors - 1, vectors}; }

constexpr long max_vectors = 4;
constexpr Shape gates_tile = tile_of(4);  // a vector for each gate: 7 x 4 or 3 x 4
// 7 x 4; or 4 x 3, which reads less of the panel than 3 x 4, and nothing twice.
constexpr Shape plain_tile = tile_of(registers == 32 ? 4 : 3);
// Rows that lie side by side in a vector of the left-hand factor: 8 x 3, 4 x 3 or less.
template <class T>
constexpr long transposed_rows = min(W<T>, registers / 4);
template <class T>
constexpr Shape transposed_tile = {transposed_rows<T>,
                                   min(registers / (transposed_rows<T> + 1), max_vectors)};

// While it is summed a tile is indexed by constants alone: what would index it otherwise takes a
// copy, or a compiler keeps it in memory from the start.
template <class T, int R, int N>
struct Tile {
  Vec<T> sum[R][N];
};

// sum[r][n] += a[r * row_stride + k * K_STRIDE] * panel[k][n] for k < count.
template <int K_STRIDE, class T, int R, int N>
FL_INLINE void multiply(Tile<T, R, N>& tile, const T* a, long row_stride, long count,
                        const T* panel) {
  // Were more held, a compiler would keep a sum in memory, and each multiply-add to it would wait
  // for a store: 3 to 9 percent on a Zen 5. So the other vectors are operands in memory.
  constexpr long held = min(N, usable - R * N - 1);
  for (long k = 0; k < count; ++k) {
    // A line for each k, faster than the hardware fetches ahead: this is worth 15 percent.
    if constexpr (K_STRIDE > 1) __builtin_prefetch(a + (k + 96) * K_STRIDE);
    Vec<T> b[N];
    FL_UNROLL for (int n = 0; n < held; ++n) b[n] = load(panel + n * W<T>);
    FL_UNROLL for (int r = 0; r < R; ++r) {
      const Vec<T> scalar = broadcast(a[r * row_stride + k * K_STRIDE]);
      if (held < N) asm("" : "+r"(panel));  // "may have changed": read it again for each row
      FL_UNROLL for (int n = 0; n < N; ++n) {
        if (n >= held) b[n] = load(panel + n * W<T>);
        tile.sum[r][n] += scalar * b[n];
      }
    }
    panel += N * W<T>;
    FL_UNROLL for (int r = 0; r < R; ++r) {  // no instructions: "they are in registers here"
      FL_UNROLL for (int n = 0; n < N; ++n) asm("" : FL_REGISTER(tile.sum[r][n]));
    }
  }
}

// What a tile fetches into the L2 cache on its way: `lines` cache lines from `next` on at each of
// its steps over k.
template <class T>
struct Ahead {
  const T* next = nullptr;
  long lines = 0;

  FL_INLINE void fetch() {
    for (long i = 0; i < lines; ++i, next += line<T>) __builtin_prefetch(next, 0, 2);
  }
};

// The same for rows that are contiguous, with what comes next on its way into the cache: the same
// rows further on, and at their end the beginning of the next R rows.
template <class T, int R, int N>
FL_INLINE void multiply_rows(Tile<T, R, N>& tile, const T* a, long row_stride, long count,
                             const T* panel, Ahead<T> ahead = {}) {
  constexpr long distance = 4 * line<T>;
  for (long k = 0; k < count; k += line<T>) {
    const T* next =
        a + (k + distance < count ? k + distance : k + distance - count + R * row_stride);
    FL_UNROLL for (int r = 0; r < R; ++r) __builtin_prefetch(next + r * row_stride);
    ahead.fetch();
    multiply<1>(tile, a + k, row_stride, min(count - k, line<T>), panel + k * N * W<T>);
  }
}

template <class T, int R, int N>
FL_INLINE void clear(Tile<T, R, N>& tile) {
  FL_UNROLL for (int r = 0; r < R; ++r) {
    FL_UNROLL for (int n = 0; n < N; ++n) tile.sum[r][n] = Vec<T>{};
  }
}

// Rows of a matrix with row stride `stride`: of the N vectors, `width` elements exist, and of the
// R rows, `height`.
template <class T, int R, int N>
FL_INLINE void load(Tile<T, R, N>& tile, const T* c, long stride, long width, long height = R) {
  FL_UNROLL for (int r = 0; r < R; ++r) {
    FL_UNROLL for (int n = 0; n < N; ++n) {
      if (r < height) tile.sum[r][n] = load(c + r * stride + n * W<T>, width - n * W<T>);
    }
  }
}

template <class T, int R, int N>
FL_INLINE void store(const Tile<T, R, N>& tile, T* c, long stride, long width, long height = R) {
  FL_UNROLL for (int r = 0; r < R; ++r) {
    FL_UNROLL for (int n = 0; n < N; ++n) {
      if (r < height) store(c + r * stride + n * W<T>, tile.sum[r][n], width - n * W<T>);
    }
  }
}

// Begins to fetch a tile's place in memory, to be written when its sums are known.
template <int R, int N, class T>
FL_INLINE void prefetch(const T* c, long stride) {
  FL_UNROLL for (int r = 0; r < R; ++r) {
    FL_UNROLL for (int n = 0; n < N; ++n) __builtin_prefetch(c + r * stride + n * W<T>, 1);
  }
}

template <class T, int R, int N>
FL_INLINE void add(Tile<T, R, N>& tile, const T* c, long stride, long width) {
  FL_UNROLL for (int r = 0; r < R; ++r) {
    FL_UNROLL for (int n = 0; n < N; ++n) {
      tile.sum[r][n] += load(c + r * stride + n * W<T>, width - n * W<T>);
    }
  }
}

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

// What the tile of rows [row, row + height) of `rows` fetches of the panel that comes next, `size`
// elements, in `steps` steps over k.
template <class T>
FL_INLINE Ahead<T> ahead_of(const T* next, long size, long row, long height, long rows,
                            long steps) {
  const long begin = size * row / rows, end = size * (row + height) / rows;
  return {next + begin, divide_up(end - begin, steps * line<T>)};
}

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

// A panel of columns and the row blocks in it that belong to one worker.
struct Share {
  long first, vectors;  // the panel's first vector column, and how many it has
  Range blocks;         // row blocks, of `divide_up(rows, tallest)` nearly equal ones
};

// Divides a matrix of `rows` x `vectors` vector columns among the workers, first into panels of
// at most `widest` vectors, then into row blocks, so that each worker has a contiguous run of tiles
// and as many as the others. Calls body(share) for this worker's panels, in order or backwards.
template <class Body>
FL_INLINE void for_shares(const Worker& worker, long rows, long vectors, long widest,
                          long tallest, bool backwards, const Body& body) {
  const long panels = divide_up(vectors, widest), blocks = divide_up(rows, tallest);
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

// body(arguments...) as a function of its own, for a tile of one shape: where hundreds of loops
// share a function, GCC no longer gives registers loop by loop, and sums lie in memory.
template <class Body, class... Arguments>
__attribute__((noinline)) void apart(const Body& body, Arguments... arguments) {
  body(arguments...);
}

// Calls body(height, row) for the tiles that a share has in the rows `rows`: a tile has `height`
// rows, a Constant, from `row` on.
template <long TALLEST, class Body>
FL_INLINE void for_heights(const Share& share, Range rows, const Body& body) {
  const long height = rows.end - rows.begin, parts = divide_up(height, TALLEST);
  for (long block = share.blocks.begin; block < share.blocks.end; ++block) {
    const Range n = part(height, block, parts);
    with_constant<TALLEST>(n.end - n.begin, [&](auto r) { apart(body, r, rows.begin + n.begin); });
  }
}

// The same for plain tiles: body(height, vectors, row).
template <class Body>
FL_INLINE void for_tiles(const Share& share, Range rows, const Body& body) {
  for_heights<plain_tile.rows>(share, rows, [&](auto height, long row) {
    with_constant<plain_tile.vectors>(share.vectors, [&](auto n) { apart(body, height, n, row); });
  });
}

}  // namespace fused_lstm::FL_ISA
