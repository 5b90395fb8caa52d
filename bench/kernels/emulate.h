// Emulates AMX on any CPU, bit for bit, for tests: `multiply_unit` of product/unit.h, which includes this
// file if FL_EMULATED is defined.
#pragma once

namespace fused_lstm::FL_ISA {

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

// Emulates it for bytes: the 64 k of a row times those of a vector of columns.
__attribute__((noinline)) inline void emulate_bytes(Vec<Bf16>& sum, const uint8_t* row,
                                                    const int8_t* column, long stride) {
  Pairs total = (Pairs)sum;
  for (long k = 0; k < 64; k += 4, column += stride) {
    for (int lane = 0; lane < W<float>; ++lane) {
      for (int i = 0; i < 4; ++i) total[lane] += row[k + i] * column[4 * lane + i];
    }
  }
  sum = (Vec<Bf16>)total;
}

// tile += left(k) * panel, 64 bytes of a row for each k < count.
template <Held HELD = Held::pairs, class T, class At>
inline void multiply_unit(const Sums<T>& tile, long count, const T* panel, const At& left) {
  const long line = tile.vectors * 2 * W<T>;
  for (long k = 0; k < count; ++k, panel += grain<T> * tile.vectors * W<T>) {
    const Left a = left(k);
    for (long r = 0; r < tile.rows; ++r) {
      for (long n = 0; n < tile.vectors; ++n) {
        const Bf16* const column = (const Bf16*)panel + n * 2 * W<T>;
        if constexpr (HELD == Held::bytes) {
          emulate_bytes(tile[r][n], (const uint8_t*)(a.first + r * a.stride),
                        (const int8_t*)column, 2 * line);
          continue;
        }
        emulate(tile[r][n], a.first + r * a.stride, column, line);
        if constexpr (terms == 1) continue;
        emulate(tile[r][n], a.second + r * a.stride, column, line);
        emulate(tile[r][n], a.first + r * a.stride, column + 16 * line, line);
      }
    }
  }
}

}  // namespace fused_lstm::FL_ISA
