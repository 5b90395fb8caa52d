// bfloat16 as float32, and back: loops that a compiler makes vectors of.
#pragma once

#include <bit>

namespace fused_lstm::FL_ISA {

inline void widen(const Bf16* from, float* to, long count) {
  for (long i = 0; i < count; ++i) to[i] = std::bit_cast<float>(uint32_t{from[i].bits} << 16);
}

// To the nearest number, of two the even one. What is not a number stays so.
inline void narrow(const float* from, Bf16* to, long count) {
  for (long i = 0; i < count; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(from[i]);
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1), is_nan = (bits & 0x7fffffff) > 0x7f800000;
    to[i].bits = static_cast<uint16_t>((is_nan ? bits | 0x400000 : rounded) >> 16);
  }
}

}  // namespace fused_lstm::FL_ISA
