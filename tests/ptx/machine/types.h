// Integers by width, the number formats that C++ does not have, random numbers, errors.
#pragma once

#include <bit>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace ptx {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i8 = std::int8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;

constexpr int LANES = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// Ends the run: an address outside, a deadlock, what no GPU would carry out.
struct Error : std::runtime_error {
  using runtime_error::runtime_error;
};

inline float as_float(u32 bits) { return std::bit_cast<float>(bits); }
inline u32 as_bits(float x) { return std::bit_cast<u32>(x); }
inline double as_double(u64 bits) { return std::bit_cast<double>(bits); }
inline u64 as_bits(double x) { return std::bit_cast<u64>(x); }

inline float bf16_to_float(u32 bits) { return as_float(bits << 16); }
inline float half_to_float(u32 bits) {
  return static_cast<float>(std::bit_cast<_Float16>(static_cast<u16>(bits)));
}
// What a tensor core reads of a float32 operand: its lowest 13 bits are ignored.
inline float tf32_to_float(u32 bits) { return as_float(bits & 0xffffe000u); }

// Round to nearest even, from double in one rounding. Not a number is PTX's canonical one.
inline u32 to_half(double x) {
  return x != x ? 0x7fff : std::bit_cast<u16>(static_cast<_Float16>(x));
}
inline u32 to_bf16(float x) {
  const u32 bits = as_bits(x);
  return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

template <class T>
T sign_extend(T value, int bits) {  // of the low `bits`
  using Signed = std::make_signed_t<T>;
  const int shift = static_cast<int>(sizeof(T)) * 8 - bits;
  return static_cast<T>(static_cast<Signed>(value << shift) >> shift);
}

// splitmix64: every draw of a run follows from its seed.
struct Random {
  u64 state;

  u64 next() {
    u64 z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
  }
  u32 below(u32 n) { return static_cast<u32>((next() >> 32) * n >> 32); }
  bool chance(i32 ppm) { return ppm > 0 && below(1'000'000) < static_cast<u32>(ppm); }
};

inline std::string hex(u64 n) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(n));
  return text;
}

}  // namespace ptx
