// The types of elements and of sums.
#pragma once

#include <cstdint>

namespace fused_lstm {

// A bfloat16 as it lies in memory: the upper half of a float32.
struct Bf16 {
  uint16_t bits;
};

// The type that products of T are summed in, and cell states and gradients are kept in.
template <class T>
struct SumOf {
  typedef T Type;
};

template <>
struct SumOf<Bf16> {
  typedef float Type;
};

template <class T>
using Sum = typename SumOf<T>::Type;

}  // namespace fused_lstm
