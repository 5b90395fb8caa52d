// float32 factors as sums of bfloat16 terms, for a matrix unit (see unit.h).
//
// The first term of x is the bfloat16 nearest to it, the second the one nearest to what is left: 16
// bits in all. A product of two such sums is that of the first terms and the two of a first and a
// second one; that of the second ones, 2^-16 of it at most, is left out. With one term each it is
// the first of these alone.
//
// What is on the right is split when it is packed: 32 rows of a panel are the pairs along k of the
// first terms, then those of the second ones, in the bytes of the float32 (half of which one term
// leaves unused). What is on the left stays float32 and is split as it is read.
#pragma once

#include "product/transpose.h"

namespace fused_lstm::FL_ISA {

// The bfloat16 nearest to v, which becomes what is left; past the largest bfloat16, that one. What
// is not finite is the last term, so that of two it is multiplied by first terms alone: by a
// second one, which may be 0 or of the other sign, an infinity would become NaN.
FL_INLINE auto next_term(Vec<float>& v, int term) {
  constexpr float largest = 0x1.fep127f;
  const auto finite = v - v == Vec<float>{};
  const Vec<float> other = term + 1 == terms ? v : Vec<float>{};
  const auto nearest = narrowed(finite ? clamp<float>(v, largest) : other);
  v = v - widened(nearest);
  return nearest;
}

// 32 neighbours: the first 16, then the others.
template <class Half>
FL_INLINE Factor<Bf16> joined(const Half& first, const Half& second) {
  Factor<Bf16> both;
  __builtin_memcpy(&both, &first, sizeof first);
  __builtin_memcpy((char*)&both + sizeof first, &second, sizeof second);
  return both;
}

// R rows of 32 k of a left-hand factor, where the unit finds them.
struct Left {
  const Bf16 *first, *second;  // terms; the second one is null where there is one
  long stride;
};

// Of up to 32 rows.
struct Split {
  alignas(64) Bf16 at[terms][32][32];

  FL_INLINE Left left() const { return {at[0][0], terms == 2 ? at[terms - 1][0] : nullptr, 32}; }

  FL_INLINE Left rows(const float* a, long stride, long count) {
    for (long r = 0; r < count; ++r) {
      Vec<float> low = load(a + r * stride), high = load(a + r * stride + 16);
      FL_UNROLL for (int term = 0; term < terms; ++term) {
        store_factors(at[term][r], joined(next_term(low, term), next_term(high, term)));
      }
    }
    return left();
  }

  // Splits W columns likewise, of whose 32 rows `exist` do.
  FL_INLINE Left columns(const float* a, long stride, long exist) {
    constexpr int R = W<float>;
    Factor<Bf16> made[terms][R];
    for (int i = 0; i < R; ++i) {
      const float* const row = a + 2 * i * stride;
      Vec<float> even = 2 * i < exist ? load(row) : Vec<float>{};
      Vec<float> odd = 2 * i + 1 < exist ? load(row + stride) : Vec<float>{};
      FL_UNROLL for (int term = 0; term < terms; ++term) {
        const auto first = next_term(even, term), second = next_term(odd, term);
        made[term][i] = pair_of<Bf16>(widened(first), widened(second));
      }
    }
    FL_UNROLL for (int term = 0; term < terms; ++term) {
      transpose_stage<1, Bf16>(made[term]);
      for (int r = 0; r < R; ++r) store_factors(at[term][r], made[term][r]);
    }
    return left();
  }
};

// --- a panel, whose pairs of k lie `stride` apart ---

// v as the step k of a vector of columns.
FL_INLINE void put_terms(float* column, long stride, long k, Vec<float> v) {
  float* const pair = column + (k / 32 * 32 + k % 32 / 2) * stride;
  FL_UNROLL for (int term = 0; term < terms; ++term) {
    store_part((Bf16*)(pair + term * 16 * stride), widened(next_term(v, term)), k % 2);
  }
}

// pack_transposed (see pack.h).
inline void pack_terms(const float* m, long columns, long exist, long count, float* out,
                       long stride) {
  for (long k = 0; k < count; k += 32) {
    Factor<Bf16> rows[terms][W<float>];
    for (int lane = 0; lane < W<float>; ++lane) {
      const float* const row = m + lane * columns + k;
      const long width = lane < exist ? count - k : 0;
      Vec<float> low = load(row, width), high = load(row + 16, width - 16);
      FL_UNROLL for (int term = 0; term < terms; ++term) {
        rows[term][lane] = joined(next_term(low, term), next_term(high, term));
      }
    }
    FL_UNROLL for (int term = 0; term < terms; ++term) {
      transpose_stage<1, Bf16>(rows[term]);
      float* const pairs = out + (k + term * 16) * stride;
      for (int i = 0; i < 16; ++i) store_factors((Bf16*)(pairs + i * stride), rows[term][i]);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
