// bfloat16 in memory, float32 in registers, on a CPU that knows no bfloat16: as bf16.h, bit for
// bit.
#pragma once

namespace fused_lstm::FL_ISA {

typedef uint32_t Pairs __attribute__((vector_size(FL_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(FL_BYTES / 2)));

FL_INLINE Vec<Bf16> widened(Halves v) {
  return (Vec<Bf16>)(__builtin_convertvector(v, Pairs) << 16);
}

// To nearest even; denormals become 0, and every NaN stays one.
FL_INLINE Halves narrowed(Vec<Bf16> v) {
  const Pairs bits = (Pairs)v, magnitude = bits & 0x7fffffff;
  Pairs half = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  half = magnitude > 0x7f800000 ? (bits >> 16) | 0x40 : half;
  half = magnitude < 0x00800000 ? (bits >> 16) & 0x8000 : half;
  return __builtin_convertvector(half, Halves);
}

template <>
FL_INLINE Vec<Bf16> load(const Bf16* p, long n) {
  Halves v = {};
  for (long lane = 0; lane < n && lane < W<Bf16>; ++lane) v[lane] = p[lane].bits;
  return widened(v);
}

template <>
FL_INLINE Vec<Bf16> load(const Bf16* p) {
  return load(p, W<Bf16>);
}

template <>
FL_INLINE void store(Bf16* p, Vec<Bf16> v, long n) {
  const Halves half = narrowed(v);
  for (long lane = 0; lane < n && lane < W<Bf16>; ++lane) p[lane].bits = half[lane];
}

template <>
FL_INLINE void store(Bf16* p, Vec<Bf16> v) {
  store(p, v, W<Bf16>);
}

template <>
struct FactorOf<Bf16> {
  typedef Pairs Type;
};

template <>
FL_INLINE Pairs factors(const Bf16* p, long n) {
  Pairs v = {};
  for (long i = 0; i < n && i < 2 * W<Bf16>; ++i) v[i / 2] |= uint32_t{p[i].bits} << i % 2 * 16;
  return v;
}

template <>
FL_INLINE Pairs factors(const Bf16* p) {
  return factors(p, 2 * W<Bf16>);
}

template <>
FL_INLINE void store_factors(Bf16* p, Pairs factor) {
  __builtin_memcpy(p, &factor, sizeof factor);
}

template <>
FL_INLINE void store_left(Bf16* p, Vec<Bf16> v, long n) {
  for (long lane = n < 0 ? 0 : n; lane < W<Bf16>; ++lane) v[lane] = 0;
  store(p, v);
}

template <>
FL_INLINE void store_part(Bf16* p, Vec<Bf16> v, long part) {
  const Halves half = narrowed(v);
  for (long lane = 0; lane < W<Bf16>; ++lane) p[2 * lane + part].bits = half[lane];
}

}  // namespace fused_lstm::FL_ISA
