// The inner product of everything here: a tile of a few rows by a few vectors held in registers.
//
// A panel is `count` rows of N vectors, contiguous: element (k, n) of the right-hand factor.
// The left-hand factor is read a scalar at a time, wherever it lies.
#pragma once

#include "simd.h"

namespace fused_lstm::FL_ISA {

// Rows by 4 vectors of sums, 4 vectors of a panel and one scalar: 33 of 32 registers for 7 rows and
// 17 of 16 for 3. `multiply` says how that fits.
#if FL_BYTES == 64 || defined(__aarch64__)
constexpr int max_rows = 7, registers = 32;
#else
constexpr int max_rows = 3, registers = 16;
#endif
constexpr int max_vectors = 4;

template <class T, int R, int N>
struct Tile {
  Vec<T> sum[R][N];
};

// sum[r][n] += a[r * row_stride + k * K_STRIDE] * panel[k][n] for k < count.
template <int K_STRIDE, class T, int R, int N>
FL_INLINE void multiply(Tile<T, R, N>& tile, const T* a, long row_stride, long count,
                        const T* panel) {
  // Where sums, vectors and the scalar are more than the registers, a compiler keeps a sum in
  // memory, and each multiply-add to it waits for a store: 3 to 9 percent on a Zen 5. So the last
  // vector is an operand in memory instead.
  constexpr int held = R * N + N + 1 > registers ? N - 1 : N;
  for (long k = 0; k < count; ++k) {
    // A line for each k, faster than the hardware fetches ahead: this is worth 15 percent.
    if constexpr (K_STRIDE > 1) __builtin_prefetch(a + (k + 96) * K_STRIDE);
    Vec<T> b[N];
    FL_UNROLL for (int n = 0; n < held; ++n) b[n] = load(panel + n * W<T>);
    FL_UNROLL for (int r = 0; r < R; ++r) {
      const Vec<T> scalar = broadcast(a[r * row_stride + k * K_STRIDE]);
      FL_UNROLL for (int n = 0; n < N; ++n) {
        if (n == held) {
          asm("" : "+r"(panel));  // "may have changed": read it again for each row
          b[n] = load(panel + n * W<T>);
        }
        tile.sum[r][n] += scalar * b[n];
      }
    }
    panel += N * W<T>;
  }
}

// The same for rows that are contiguous, with what comes next on its way into the cache: the same
// rows further on, and at their end the beginning of the next R rows.
template <class T, int R, int N>
FL_INLINE void multiply_rows(Tile<T, R, N>& tile, const T* a, long row_stride, long count,
                             const T* panel) {
  constexpr long line = 64 / sizeof(T), ahead = 4 * line;
  for (long k = 0; k < count; k += line) {
    const T* next = a + (k + ahead < count ? k + ahead : k + ahead - count + R * row_stride);
    FL_UNROLL for (int r = 0; r < R; ++r) __builtin_prefetch(next + r * row_stride);
    multiply<1>(tile, a + k, row_stride, count - k < line ? count - k : line, panel + k * N * W<T>);
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

FL_INLINE long divide_up(long a, long b) { return (a + b - 1) / b; }
FL_INLINE long min(long a, long b) { return a < b ? a : b; }

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
  Range blocks;         // row blocks, of `divide_up(rows, max_rows)` nearly equal ones
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

}  // namespace fused_lstm::FL_ISA
