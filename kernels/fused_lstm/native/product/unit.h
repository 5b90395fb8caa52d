// Products of tiles of bfloat16 by a matrix unit: AMX, or what emulates it on any CPU. Factors are
// bfloat16, or float32 as sums of them (see terms.h).
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

namespace fused_lstm::FL_ISA {

#ifdef FL_EMULATED

typedef double Wide __attribute__((vector_size(2 * FL_BYTES)));  // as many lanes

FL_INLINE Vec<Bf16> flushed(Vec<Bf16> v) {
  const Pairs bits = (Pairs)v;
  return (Vec<Bf16>)(bits & ((bits & 0x7f800000) ? ~Pairs{} : Pairs{} + 0x80000000));
}

// The product of two bfloat16 is exact in float64, and so is its sum with a float32 wherever that
// is near a tie of float32: what is rounded twice is rounded right.
FL_INLINE Vec<Bf16> fused(Vec<Bf16> a, Vec<Bf16> b, Vec<Bf16> sum) {
  const Wide exact = __builtin_convertvector(flushed(a), Wide) *
                         __builtin_convertvector(flushed(b), Wide) +
                     __builtin_convertvector(sum, Wide);
  return flushed(__builtin_convertvector(exact, Vec<Bf16>));
}

// The even k of a vector's pairs, and the odd ones.
FL_INLINE Vec<Bf16> even(Pairs pairs) { return (Vec<Bf16>)(pairs << 16); }
FL_INLINE Vec<Bf16> odd(Pairs pairs) { return (Vec<Bf16>)(pairs & 0xffff0000); }

// sum += the 32 k of a row times those of a vector of columns, whose pairs are `stride` apart.
__attribute__((noinline)) inline void emulate(Vec<Bf16>& sum, const Bf16* row,
                                              const Bf16* column, long stride) {
  Vec<Bf16> first = {}, second = {};
  for (long k = 0; k < grain<Bf16>; k += 2, column += stride) {
    Pairs a, b;
    uint32_t pair;
    __builtin_memcpy(&pair, row + k, sizeof pair);
    __builtin_memcpy(&b, column, sizeof b);
    a = Pairs{} + pair;
    first = fused(even(a), even(b), first);
    second = fused(odd(a), odd(b), second);
  }
  sum = flushed(flushed(sum) + flushed(first + second));
}

// tile += left(k) * panel, 32 steps for each k < count.
template <class T, int R, int N, class At>
inline void multiply_unit(Tile<T, R, N>& tile, long count, const T* panel, const At& left) {
  constexpr long line = N * 2 * W<T>;
  for (long k = 0; k < count; ++k, panel += grain<T> * N * W<T>) {
    const Left a = left(k);
    FL_OF_TILE for (int r = 0; r < R; ++r) {
      FL_OF_TILE for (int n = 0; n < N; ++n) {
        const Bf16* const column = (const Bf16*)panel + n * 2 * W<T>;
        emulate(tile.sum[r][n], a.first + r * a.stride, column, line);
        if constexpr (terms == 1) continue;
        emulate(tile.sum[r][n], a.second + r * a.stride, column, line);
        emulate(tile.sum[r][n], a.first + r * a.stride, column + 16 * line, line);
      }
    }
  }
}

#else

// What LDTILECFG reads: sums in the registers 0 to 3, rows of the left factor in 4 and 6, of the
// right one in 5.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16];
};

template <int R>
constexpr TileConfig config = {.rows = {R, R, R, R, R, 16, R}};

// Statements of their own, in order: GCC 12's intrinsics do not say that they read memory.
template <int REGISTER>
FL_INLINE void load_tile(const void* rows, long bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(bytes), "i"(REGISTER) : "memory");
}

template <int REGISTER>
FL_INLINE void store_tile(void* rows, long bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(bytes), "i"(REGISTER) : "memory");
}

template <int REGISTER, int LEFT>
FL_INLINE void dot_tile() {
  asm volatile("tdpbf16ps %%tmm5, %%tmm%c1, %%tmm%c0" ::"i"(REGISTER), "i"(LEFT));
}

// Calls body(Constant<n>) for n < N.
template <int N, class Body>
FL_INLINE void for_constants(const Body& body) {
  if constexpr (N > 1) for_constants<N - 1>(body);
  body(Constant<N - 1>{});
}

// tile += left(k) * panel, 32 steps for each k < count. The unit is given back at the end: a thread
// that holds it costs more to switch from.
template <class T, int R, int N, class At>
FL_INLINE void multiply_unit(Tile<T, R, N>& tile, long count, const T* panel, const At& left) {
  constexpr long line = N * 64;
  asm volatile("ldtilecfg %0" ::"m"(config<R>));
  for_constants<N>([&](auto n) { load_tile<n.value>(&tile.sum[0][n.value], line); });
  for (long k = 0; k < count; ++k, panel += grain<T> * N * W<T>) {
    const Left a = left(k);
    load_tile<4>(a.first, a.stride * sizeof(Bf16));
    if constexpr (terms == 2) load_tile<6>(a.second, a.stride * sizeof(Bf16));
    for_constants<N>([&](auto n) {
      const char* const column = (const char*)panel + n.value * 64;
      load_tile<5>(column, line);
      dot_tile<n.value, 4>();
      if constexpr (terms == 1) return;
      dot_tile<n.value, 6>();
      load_tile<5>(column + 16 * line, line);
      dot_tile<n.value, 4>();
    });
  }
  for_constants<N>([&](auto n) { store_tile<n.value>(&tile.sum[0][n.value], line); });
  asm volatile("tilerelease" ::: "memory");
}

#endif

// tile += the R rows from a on, of `count` times 32 k that are `k_stride` apart, times a panel.
template <class T, int R, int N>
FL_INLINE void multiply_tiles(Tile<T, R, N>& tile, const T* a, long row_stride, long k_stride,
                              long count, const T* panel) {
  if constexpr (by_terms<T>) {
    Split<R> split;
    multiply_unit(tile, count, panel,
                  [&](long k) { return split.rows(a + k * k_stride, row_stride); });
  } else {
    multiply_unit(tile, count, panel,
                  [&](long k) { return Left{a + k * k_stride, nullptr, row_stride}; });
  }
}

// The same of R columns of `count` rows, of float32.
template <class T, int R, int N>
FL_INLINE void multiply_columns(Tile<T, R, N>& tile, const T* a, long row_stride, long count,
                                const T* panel) {
  Split<R> split;
  multiply_unit(tile, divide_up(count, grain<T>), panel, [&](long k) {
    return split.columns(a + k * grain<T> * row_stride, row_stride, count - k * grain<T>);
  });
}

// tile += R rows of `count` k: what is behind a row's end is not read.
template <class T, int R, int N>
FL_INLINE void unit_rows(Tile<T, R, N>& tile, const T* a, long row_stride, long count,
                         const T* panel) {
  constexpr long step = grain<T>;
  const long most = count / step * step;
  multiply_tiles(tile, a, row_stride, step, most / step, panel);
  if (most == count) return;
  alignas(64) T last[R][step] = {};
  for (int r = 0; r < R; ++r) {
    for (long k = most; k < count; ++k) last[r][k - most] = a[r * row_stride + k];
  }
  multiply_tiles(tile, last[0], step, step, 1, panel + most * N * W<T>);
}

}  // namespace fused_lstm::FL_ISA
