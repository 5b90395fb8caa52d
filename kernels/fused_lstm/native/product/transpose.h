// Lanes of several vectors that change places.
#pragma once

#include <utility>  // integer_sequence: a type, no code

#include "isa/simd.h"

namespace fused_lstm::FL_ISA {

// Lanes whose index has bit S from one vector, the others from its partner S lanes away.
template <int S, class V, int... LANE>
FL_INLINE void exchange(V& a, V& b, std::integer_sequence<int, LANE...>) {
  constexpr int n = sizeof...(LANE);
#if defined(__clang__) || __GNUC__ >= 12
  const V low = __builtin_shufflevector(a, b, (LANE & S ? n + LANE - S : LANE)...);
  b = __builtin_shufflevector(a, b, (LANE & S ? n + LANE : LANE + S)...);
#else
  typedef decltype(a < b) Index;
  const V low = __builtin_shuffle(a, b, Index{(LANE & S ? n + LANE - S : LANE)...});
  b = __builtin_shuffle(a, b, Index{(LANE & S ? n + LANE : LANE + S)...});
#endif
  a = low;
}

template <int S, class T>
FL_INLINE void transpose_stage(Factor<T> (&rows)[W<T>]) {
  FL_UNROLL for (int i = 0; i < W<T>; ++i) {
    if (!(i & S)) exchange<S>(rows[i], rows[i + S], std::make_integer_sequence<int, W<T>>{});
  }
  if constexpr (2 * S < W<T>) transpose_stage<2 * S, T>(rows);
}

// Lanes of a and b side by side, a first.
template <class T>
FL_INLINE Factor<T> pair_of(Vec<T> a, Vec<T> b) {
  return (((Factor<T>)a >> 16) & 0xffff) | ((Factor<T>)b & ~0xffff);
}

}  // namespace fused_lstm::FL_ISA
