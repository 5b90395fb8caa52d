// Products of tiles of bfloat16 by a matrix unit, AMX. Factors are bfloat16, or float32 as sums of them
// (see terms.h).
//
// A tile register has 16 rows of 64 bytes. TDPBF16PS adds to 16 x 16 float32 sums the product of
// 16 rows of 32 bfloat16 and of 32 rows of 16 columns, which lie as a panel of one vector does (see
// tile.h): 16 rows of 16 pairs along k. By the manual it takes the even k of a sum in one chain of
// fused multiply-adds that begins with 0 and the odd ones in another, then adds the two and what
// was there before; every step rounds to nearest even and takes denormals for 0.
#pragma once

#include "product/divide.h"
#include "product/terms.h"
#include "product/tile.h"
#include "product/unit_scope.h"

namespace fused_lstm::FL_ISA {

// The elements of a register along k: pairs of bfloat16 (TDPBF16PS), or four bytes (TDPBUSD), of the left
// factor 0 to 255 and of the right one -128 to 127, whose sums are int32 and exact.
enum class Held { pairs, bytes };

#ifdef FL_EMULATED

}  // namespace fused_lstm::FL_ISA
#include "emulate.h"  // of bench/kernels: what tests compile for any CPU
namespace fused_lstm::FL_ISA {

#else

// Statements of their own, in order: GCC 12's intrinsics do not say that they read memory.
template <int REGISTER>
FL_INLINE void load_tile(const void* rows, long bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(bytes), "i"(REGISTER) : "memory");
}

template <int REGISTER>
FL_INLINE void store_tile(void* rows, long bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(bytes), "i"(REGISTER) : "memory");
}

template <Held HELD, int REGISTER, int LEFT, int RIGHT>
FL_INLINE void dot_tile() {
  if constexpr (HELD == Held::pairs) {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(REGISTER), "i"(LEFT), "i"(RIGHT));
  } else {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(REGISTER), "i"(LEFT), "i"(RIGHT));
  }
}

// Calls body(Constant<n>) for n < N.
template <int N, class Body>
FL_INLINE void for_constants(const Body& body) {
  if constexpr (N > 1) for_constants<N - 1>(body);
  body(Constant<N - 1>{});
}

// Multiplies WIDTH vectors of columns, one or two, from the n-th on, of a tile of more than 16 rows:
// each register of either factor is multiplied twice. `range` is the k.
template <Held HELD, int WIDTH, class T, class At>
FL_INLINE void multiply_two(const Sums<T>& tile, long n, Range range, const T* panel,
                            const At& left) {
  const long line = tile.vectors * 64, size = grain<T> * tile.vectors * W<T>;
  const long upper = upper_rows(tile.rows);
  load_tile<0>(&tile[0][n], line);
  load_tile<2>(&tile[upper][n], line);
  if constexpr (WIDTH == 2) {
    load_tile<1>(&tile[0][n + 1], line);
    load_tile<3>(&tile[upper][n + 1], line);
  }
  for (long k = range.begin; k < range.end; ++k) {
    const char* const column = (const char*)(panel + k * size) + n * 64;
    const Left a = left(k);
    const long stride = a.stride * sizeof(Bf16);
    const auto add = [&](const Bf16* rows, const char* right, bool loaded) {
      load_tile<4>(rows, stride);
      if (!loaded) load_tile<6>(right, line);
      dot_tile<HELD, 0, 4, 6>();
      load_tile<5>(rows + upper * a.stride, stride);
      dot_tile<HELD, 2, 5, 6>();
      if constexpr (WIDTH == 2) {
        if (!loaded) load_tile<7>(right + 64, line);
        dot_tile<HELD, 1, 4, 7>();
        dot_tile<HELD, 3, 5, 7>();
      }
    };
    add(a.first, column, false);
    if constexpr (terms == 1) continue;
    add(a.second, column, true);
    add(a.first, column + 16 * line, false);
  }
  store_tile<0>(&tile[0][n], line);
  store_tile<2>(&tile[upper][n], line);
  if constexpr (WIDTH == 2) {
    store_tile<1>(&tile[0][n + 1], line);
    store_tile<3>(&tile[upper][n + 1], line);
  }
}

// tile += left(k) * panel, 64 bytes of a row for each k < count, of terms twice as many. The unit is
// configured for its rows.
template <Held HELD = Held::pairs, class T, class At>
FL_INLINE void multiply_unit(const Sums<T>& tile, long count, const T* panel, const At& left) {
  if (tile.rows > 16) {
    constexpr long most = 20 / terms;  // of the left factor 40 KiB, which stay in the L1 cache
    const long parts = parts_of(count, most);
    for (long i = 0; i < parts; ++i) {
      const Range range = part(count, i, parts);
      long n = 0;
      for (; n + 1 < tile.vectors; n += 2) multiply_two<HELD, 2>(tile, n, range, panel, left);
      if (n < tile.vectors) multiply_two<HELD, 1>(tile, n, range, panel, left);
    }
    return;
  }
  with_constant<4>(tile.vectors, [&](auto vectors) {
    constexpr int N = decltype(vectors)::value;
    constexpr long line = N * 64;
    for_constants<N>([&](auto n) { load_tile<n.value>(&tile[0][n.value], line); });
    for (long k = 0; k < count; ++k, panel += grain<T> * N * W<T>) {
      const Left a = left(k);
      load_tile<4>(a.first, a.stride * sizeof(Bf16));
      if constexpr (terms == 2) load_tile<6>(a.second, a.stride * sizeof(Bf16));
      for_constants<N>([&](auto n) {
        const char* const column = (const char*)panel + n.value * 64;
        load_tile<5>(column, line);
        dot_tile<HELD, n.value, 4, 5>();
        if constexpr (terms == 1) return;
        dot_tile<HELD, n.value, 6, 5>();
        load_tile<5>(column + 16 * line, line);
        dot_tile<HELD, n.value, 4, 5>();
      });
    }
    for_constants<N>([&](auto n) { store_tile<n.value>(&tile[0][n.value], line); });
  });
}

#endif

// --- rows made ready once for all tiles that read them ---
//
// Up to whole grains, with zeros behind a row's end. Of float32 each 32 are their first terms, then
// their second ones, in as many bytes. Rows are an odd number of cache lines apart.

template <class T>
FL_INLINE long ready_stride(long depth) {
  return (whole<T>(depth) * long(sizeof(T)) / 64 | 1) * 64 / long(sizeof(T));
}

template <class T>
void make_ready(const T* rows, long stride, long count, long depth, T* out) {
  for (long r = 0; r < count; ++r, rows += stride, out += ready_stride<T>(depth)) {
    for (long k = 0; k < depth; k += 32) {
      if constexpr (by_terms<T>) {
        Vec<T> low = load(rows + k, depth - k), high = load(rows + k + 16, depth - k - 16);
        FL_UNROLL for (int term = 0; term < terms; ++term) {
          store_factors((Bf16*)(out + k) + 32 * term,
                        joined(next_term(low, term), next_term(high, term)));
        }
      } else {
        store_factors(out + k, factors(rows + k, depth - k));
      }
    }
  }
}

// tile += ready rows of `count` k, `row_stride` apart.
template <class T>
__attribute__((noinline)) void multiply_ready(const Sums<T>& tile, const T* a, long row_stride,
                                              long count, const T* panel) {
  multiply_unit(tile, divide_up(count, grain<T>), panel, [&](long k) {
    const Bf16* const first = (const Bf16*)(a + k * grain<T>);
    return Left{first, first + 32, row_stride * long(sizeof(T) / sizeof(Bf16))};
  });
}

// tile += the rows from a on, of `count` times 32 k that are `k_stride` apart, times a panel.
template <class T>
__attribute__((noinline)) void multiply_tiles(const Sums<T>& tile, const T* a, long row_stride,
                                              long k_stride, long count, const T* panel) {
  if constexpr (by_terms<T>) {
    Split split;
    multiply_unit(tile, count, panel,
                  [&](long k) { return split.rows(a + k * k_stride, row_stride, tile.rows); });
  } else {
    multiply_unit(tile, count, panel,
                  [&](long k) { return Left{a + k * k_stride, nullptr, row_stride}; });
  }
}

// Multiplies W columns of `count` rows likewise, of float32.
template <class T>
__attribute__((noinline)) void multiply_columns(const Sums<T>& tile, const T* a, long row_stride,
                                                long count, const T* panel) {
  Split split;
  multiply_unit(tile, divide_up(count, grain<T>), panel, [&](long k) {
    return split.columns(a + k * grain<T> * row_stride, row_stride, count - k * grain<T>);
  });
}

// tile += rows of `count` k: what is behind a row's end is not read.
template <class T>
FL_INLINE void unit_rows(const Sums<T>& tile, const T* a, long row_stride, long count,
                         const T* panel) {
  constexpr long step = grain<T>;
  const long most = count / step * step;
  multiply_tiles(tile, a, row_stride, step, most / step, panel);
  if (most == count) return;
  alignas(64) T last[32][step] = {};
  for (long r = 0; r < tile.rows; ++r) {
    for (long k = most; k < count; ++k) last[r][k - most] = a[r * row_stride + k];
  }
  multiply_tiles(tile, last[0], step, step, 1, panel + most * tile.vectors * W<T>);
}

}  // namespace fused_lstm::FL_ISA
