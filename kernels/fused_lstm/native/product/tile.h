// The inner product of everything here: a tile of a few rows by a few vectors held in registers.
//
// A panel is `count` rows of N vectors, contiguous: element (k, n) of the right-hand factor.
// The left-hand factor is read a scalar at a time, wherever it lies.
//
// Of bfloat16 a panel's row has two steps of k, a lane's pair side by side, and the "scalar" is a
// pair too (`deep`, see simd.h): so (k, n) is at k * N * W + n * W * deep for every even k, in
// elements, and a panel of a depth that is not even ends in a row half of zeros. Sums are float32.
#pragma once

#include "isa/shapes.h"

namespace fused_lstm::FL_ISA {

// While it is summed a tile is indexed by constants alone: what would index it otherwise takes a
// copy, or a compiler keeps it in memory from the start.
template <class T, int R, int N>
struct Tile {
  Vec<T> sum[R][N];
};

template <class T, int R, int N>
FL_INLINE void clear(Tile<T, R, N>& tile) {
  FL_UNROLL for (int r = 0; r < R; ++r) {
    FL_UNROLL for (int n = 0; n < N; ++n) tile.sum[r][n] = Vec<T>{};
  }
}

// A tile in memory, of any shape. A product's function for one shape takes the sums from there to
// registers and back; whatever else is done with them is compiled once, for all shapes.
template <class T>
struct Sums {
  Vec<T>* data;
  long rows, vectors;
  long abreast = 1;  // blocks of units, where there are more gates than one

  FL_INLINE Vec<T>* operator[](long r) const { return data + r * vectors; }
  FL_INLINE long blocks(long gates) const { return gates > 1 ? abreast : vectors; }
};

// The place where a tile's sums lie: `row` elements from a row to the next one, `vector` from a vector to the
// next one. Without data they are 0. `last`, if it is not null, is each row's last vector instead. U: what
// they are rounded to, where they are no sums any more.
// Kernels take it by reference: a place that is passed by value is copied by a vector's load, which
// waits for the words that were just stored (2 percent of a step).
template <class T, class U = Sum<T>>
struct Place {
  U* data = nullptr;
  long row = 0, vector = 0;
  const U* last = nullptr;
};

template <class T>
FL_INLINE Place<T> place_of(const Sums<T>& tile) {
  return {reinterpret_cast<Sum<T>*>(tile.data), tile.vectors * W<T>, W<T>};
}

// Copies sums to memory from where they lie.
template <class T>
FL_INLINE void bring(const Sums<T>& tile, const Place<T>& from) {
  if (!from.data) return clear(tile);
  const Place<T> own = place_of(tile);
  if (from.data == own.data && from.row == own.row && !from.last) return;
  const Vec<T> last = from.last ? load(from.last) : Vec<T>{};  // it may lie in this memory
  for (long r = tile.rows - 1; r >= 0; --r) {  // from the last: they may begin in this memory
    for (long n = 0; n < tile.vectors; ++n) {
      tile[r][n] = load(from.data + r * from.row + n * from.vector);
    }
  }
  for (long r = 0; from.last && r < tile.rows; ++r) tile[r][tile.vectors - 1] = last;
}

template <class T>
struct TileMemory {
  Vec<T> at[largest_tile];

  FL_INLINE Sums<T> of(long rows, long vectors) { return {at, rows, vectors}; }
};

template <class T>
FL_INLINE void clear(const Sums<T>& tile) {
  for (long i = 0; i < tile.rows * tile.vectors; ++i) tile.data[i] = Vec<T>{};
}

template <class T, int R, int N>
FL_INLINE void take(Tile<T, R, N>& tile, const Place<T>& from) {
  if (!from.data) return clear(tile);
  const Sum<T>* row = from.data;
  FL_UNROLL for (int r = 0; r < R; ++r, row += from.row) {
    FL_UNROLL for (int n = 0; n < N; ++n) tile.sum[r][n] = load(row + n * from.vector);
  }
  if (from.last) {
    FL_UNROLL for (int r = 0; r < R; ++r) tile.sum[r][N - 1] = load(from.last);
  }
}

// to: a copy, which the stores cannot change.
template <class T, int R, int N, class U>
FL_INLINE void leave(const Tile<T, R, N>& tile, const Place<T, U> to) {
  U* row = to.data;
  FL_UNROLL for (int r = 0; r < R; ++r, row += to.row) {
    FL_UNROLL for (int n = 0; n < N; ++n) store(row + n * to.vector, tile.sum[r][n]);
  }
}

// A product's functions by a tile's rows, less one.
template <template <int, int> class Kernel, int N, class Rows>
struct ByRows;

template <template <int, int> class Kernel, int N, int... R>
struct ByRows<Kernel, N, std::integer_sequence<int, R...>> {
  static constexpr decltype(&Kernel<1, N>::run) table[] = {&Kernel<R + 1, N>::run...};
};

template <template <int, int> class Kernel, int N>
using ByHeight = ByRows<Kernel, N, std::make_integer_sequence<int, tallest_of(N)>>;

// The function for a tile's shape.
template <template <int, int> class Kernel>
FL_INLINE auto kernel_of(long rows, long vectors) {
  if (vectors == 4) return ByHeight<Kernel, 4>::table[rows - 1];
  if (vectors == 3) return ByHeight<Kernel, 3>::table[rows - 1];
  if (vectors == 2) return ByHeight<Kernel, 2>::table[rows - 1];
  return ByHeight<Kernel, 1>::table[rows - 1];
}

// sum[r][n] += a[r * row_stride + k * K_STRIDE] * panel[k][n] for k < count, up to whole lanes.
template <int K_STRIDE, class T, int R, int N>
FL_INLINE void multiply(Tile<T, R, N>& tile, const T* a, long row_stride, long count,
                        const T* panel) {
  // Were more held, a compiler would keep a sum in memory, and each multiply-add to it would wait
  // for a store: 3 to 9 percent on a Zen 5. So the other vectors are operands in memory. (Of pairs
  // GCC 12 holds two.)
  constexpr long held = min(N, usable - R * N - deep<T>);
  for (long k = 0; k < count; k += deep<T>) {
    // A line for each k, faster than the hardware fetches ahead: this is worth 15 percent.
    if constexpr (K_STRIDE > 1) __builtin_prefetch(a + (k + 96 * deep<T>)*K_STRIDE);
    Factor<T> b[N];
    FL_UNROLL for (int n = 0; n < held; ++n) {
      b[n] = factors(panel + n * W<T> * deep<T>);
      if constexpr (R > 1) in_register(b[n]);
    }
    FL_UNROLL for (int r = 0; r < R; ++r) {
      const Factor<T> scalar = factor(a + r * row_stride + k * K_STRIDE);
      if (held < N) asm("" : "+r"(panel));  // "may have changed": read it again for each row
      FL_UNROLL for (int n = 0; n < N; ++n) {
        Vec<T>& sum = tile.sum[r][n];
        sum = n < held ? dot<T>(sum, scalar, b[n])
                       : dot_with<T>(sum, scalar, panel + n * W<T> * deep<T>);
      }
    }
    panel += N * W<T> * deep<T>;
    FL_UNROLL for (int r = 0; r < R; ++r) {
      FL_UNROLL for (int n = 0; n < N; ++n) in_register(tile.sum[r][n]);
    }
  }
}

// How many sums there are for each of a tile's, so that one need not wait for another: a CPU begins
// two multiply-adds in a cycle, and has a result four to six later.
template <int R, int N>
constexpr int chains = R > 2 ? 1 : usable == 32 ? 4 / R : 2 / R;

// Multiplies as `multiply`, each sum in as many parts as there are tiles, whose k are neighbours.
template <int CHAINS, class T, int R, int N>
FL_INLINE void multiply_chains(Tile<T, R, N> (&parts)[CHAINS], const T* a, long row_stride,
                               long count, const T* panel) {
  long k = 0;
  for (; k + CHAINS * deep<T> <= count; k += CHAINS * deep<T>) {
    FL_UNROLL for (int i = 0; i < CHAINS; ++i, panel += N * W<T> * deep<T>) {
      Factor<T> scalar[R];
      FL_UNROLL for (int r = 0; r < R; ++r) {
        scalar[r] = factor(a + r * row_stride + k + i * deep<T>);
      }
      FL_UNROLL for (int n = 0; n < N; ++n) {
        Factor<T> b = factors(panel + n * W<T> * deep<T>);
        if constexpr (R > 1) in_register(b);
        FL_UNROLL for (int r = 0; r < R; ++r) {
          parts[i].sum[r][n] = dot<T>(parts[i].sum[r][n], scalar[r], b);
        }
      }
    }
    FL_UNROLL for (int i = 0; i < CHAINS; ++i) {
      FL_UNROLL for (int r = 0; r < R; ++r) {
        FL_UNROLL for (int n = 0; n < N; ++n) in_register(parts[i].sum[r][n]);
      }
    }
  }
  multiply<1>(parts[0], a + k, row_stride, count - k, panel);
}

// Lines that a tile fetches into the L2 cache on its way: `lines` of them from `next` on at each of
// its steps over k.
template <class T>
struct Ahead {
  const T* next = nullptr;
  long lines = 0;

  FL_INLINE void fetch() {
    for (long i = 0; i < lines; ++i, next += line<T>) __builtin_prefetch(next, 0, 2);
  }
};

// Returns what the tile of rows [row, row + height) of `rows` fetches of the next panel, `size`
// elements, in `steps` steps over k.
template <class T>
FL_INLINE Ahead<T> ahead_of(const T* next, long size, long row, long height, long rows,
                            long steps) {
  const long begin = size * row / rows, end = size * (row + height) / rows;
  return {next + begin, divide_up(end - begin, steps * line<T>)};
}

// Multiplies rows that are contiguous, with what comes next on its way into the cache: the same
// rows further on, and at their end the beginning of the next R rows. What is behind a row's end is
// not read: an odd depth's last element is made a pair.
template <class T>
struct OfRows {
  template <int R, int N>
  struct Kernel {
    __attribute__((noinline)) static void run(const Place<T>& from, const Place<T>& to, const T* a,
                                              long row_stride, long count, const T* panel,
                                              Ahead<T> ahead) {
      constexpr long distance = 4 * line<T>;
      constexpr int in_flight = chains<R, N>;
      const long paired = count / deep<T> * deep<T>;
      Tile<T, R, N> parts[in_flight];
      take(parts[0], from);
      FL_UNROLL for (int i = 1; i < in_flight; ++i) clear(parts[i]);
      for (long k = 0; k < paired; k += line<T>) {
        const T* next =
            a + (k + distance < count ? k + distance : k + distance - count + R * row_stride);
        FL_UNROLL for (int r = 0; r < R; ++r) __builtin_prefetch(next + r * row_stride);
        ahead.fetch();
        const T* const at = panel + k * N * W<T>;
        if constexpr (in_flight == 1) {
          multiply<1>(parts[0], a + k, row_stride, min(paired - k, line<T>), at);
        } else {
          multiply_chains(parts, a + k, row_stride, min(paired - k, line<T>), at);
        }
      }
      Tile<T, R, N> tile = parts[0];
      FL_UNROLL for (int i = 1; i < in_flight; ++i) {
        FL_UNROLL for (int r = 0; r < R; ++r) {
          FL_UNROLL for (int n = 0; n < N; ++n) tile.sum[r][n] += parts[i].sum[r][n];
        }
      }
      if (paired < count) {
        T last[R][deep<T>] = {};
        FL_UNROLL for (int r = 0; r < R; ++r) last[r][0] = a[r * row_stride + paired];
        multiply<1>(tile, last[0], deep<T>, deep<T>, panel + paired * N * W<T>);
      }
      leave(tile, to);
    }
  };
};

// Sums come from one place and go to another, or to the tile's memory. (A matrix unit has its own: see
// unit.h, and its sums are in that memory.)
template <class T>
FL_INLINE void multiply_rows(const Sums<T>& tile, const Place<T>& from, const Place<T>& to,
                             const T* a, long row_stride, long count, const T* panel,
                             Ahead<T> ahead = {}) {
  if constexpr (by_unit<T>) {
    bring(tile, from);
    unit_rows(tile, a, row_stride, count, panel);
  } else {
    kernel_of<OfRows<T>::template Kernel>(tile.rows, tile.vectors)(from, to, a, row_stride, count,
                                                                  panel, ahead);
  }
}

template <class T>
FL_INLINE void multiply_rows(const Sums<T>& tile, const Place<T>& from, const T* a, long row_stride,
                             long count, const T* panel, Ahead<T> ahead = {}) {
  multiply_rows(tile, from, place_of(tile), a, row_stride, count, panel, ahead);
}

// Rows of a matrix of any type U with row stride `stride`: of the vectors, `width` elements
// exist, and of the rows, `height`.
template <class U, class T>
FL_INLINE void load(const Sums<T>& tile, const U* c, long stride, long width, long height) {
  for (long r = 0; r < min(height, tile.rows); ++r) {
    for (long n = 0; n < tile.vectors; ++n) {
      tile[r][n] = load(c + r * stride + n * W<T>, width - n * W<T>);
    }
  }
}

template <class U, class T>
FL_INLINE void load(const Sums<T>& tile, const U* c, long stride, long width) {
  load(tile, c, stride, width, tile.rows);
}

template <class U, class T>
FL_INLINE void store(const Sums<T>& tile, U* c, long stride, long width, long height) {
  for (long r = 0; r < min(height, tile.rows); ++r) {
    for (long n = 0; n < tile.vectors; ++n) {
      store(c + r * stride + n * W<T>, tile[r][n], width - n * W<T>);
    }
  }
}

template <class U, class T>
FL_INLINE void store(const Sums<T>& tile, U* c, long stride, long width) {
  store(tile, c, stride, width, tile.rows);
}

// Begins to fetch a tile's place in memory, to be written when its sums are known.
template <class T, class U>
FL_INLINE void prefetch(const Sums<T>& tile, const U* c, long stride) {
  for (long r = 0; r < tile.rows; ++r) {
    for (long n = 0; n < tile.vectors; ++n) __builtin_prefetch(c + r * stride + n * W<T>, 1);
  }
}

template <class U, class T>
FL_INLINE void add(const Sums<T>& tile, const U* c, long stride, long width) {
  for (long r = 0; r < tile.rows; ++r) {
    for (long n = 0; n < tile.vectors; ++n) {
      tile[r][n] += load(c + r * stride + n * W<T>, width - n * W<T>);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
