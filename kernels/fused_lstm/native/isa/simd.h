// Vectors of one instruction set: FL_BYTES wide, in the namespace FL_ISA (see isa/body.h).
//
// Written with the compiler's vector extension (GCC, Clang), so that one text serves AVX-512,
// AVX2, SSE and NEON. Nothing from the standard library is used here: an inline function of
// std:: compiled for AVX-512 could be the copy that the linker keeps for every other file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa/element.h"

#define FL_INLINE inline __attribute__((always_inline))
#define FL_UNROLL _Pragma("GCC unroll 16")

namespace fused_lstm::FL_ISA {

// Keeps a vector in a register here, without an instruction: else a compiler may keep a sum in memory, or
// read a weight from there for each row that it multiplies. Emulated vectors fit no register.
template <class V>
FL_INLINE void in_register([[maybe_unused]] V& vector) {
#if defined(FL_EMULATED)
#elif defined(__aarch64__)
  asm("" : "+w"(vector));
#else
  asm("" : "+v"(vector));
#endif
}

template <class T>
struct Types;

template <>
struct Types<float> {
  typedef float Vec __attribute__((vector_size(FL_BYTES)));
  typedef int32_t Int __attribute__((vector_size(FL_BYTES)));
  static constexpr int mantissa = 23;
  static constexpr int32_t one = 0x3f800000;  // 1.0f
  static constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float log2e = 1.442695041f;
  static constexpr float ln2_high = 0.693359375f;  // 9 bits: n * ln2_high is exact
  static constexpr float ln2_low = -2.12194440e-4f;
  static constexpr float largest = 87.0f;  // exp of it and of its negative are normal numbers
};

template <>
struct Types<double> {
  typedef double Vec __attribute__((vector_size(FL_BYTES)));
  typedef int64_t Int __attribute__((vector_size(FL_BYTES)));
  static constexpr int mantissa = 52;
  static constexpr int64_t one = 0x3ff0000000000000;
  static constexpr double round = 6755399441055744.0;
  static constexpr double log2e = 1.4426950408889634;
  static constexpr double ln2_high = 0.693145751953125;
  static constexpr double ln2_low = 1.42860682030941723212e-6;
  static constexpr double largest = 708.0;
};

// Arithmetic on bfloat16 is done in float32.
template <>
struct Types<Bf16> : Types<float> {};

template <class T>
using Vec = typename Types<T>::Vec;

template <class T>
constexpr int W = FL_BYTES / sizeof(Sum<T>);  // lanes

template <class T>
FL_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
FL_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// The first n lanes; the rest is zero, and what lies behind them is not touched.
template <class T>
FL_INLINE Vec<T> load(const T* p, long n) {
  if (n >= W<T>) return load(p);
  Vec<T> v = {};
  for (long lane = 0; lane < n; ++lane) v[lane] = p[lane];
  return v;
}

template <class T>
FL_INLINE void store(T* p, Vec<T> v, long n) {
  if (n >= W<T>) return store(p, v);
  if (n <= 0) return;  // apart: GCC 12 makes a copy of the loop, and warns of fewer bytes than none
  for (long lane = 0; lane < n; ++lane) p[lane] = v[lane];
}

// By asm statements: cells are compiled without <immintrin.h> (see isa/body.h).
#if defined(FL_TARGET) && FL_BYTES == 64
// The lanes below n, of 8, 16 or 32.
FL_INLINE uint32_t lanes_below(long n) { return n >= 32 ? ~0u : n <= 0 ? 0 : (1u << n) - 1; }

template <>
FL_INLINE Vec<float> load(const float* p, long n) {
  if (n >= W<float>) return load(p);
  Vec<float> v;
  asm("vmovups %1, %0%{%2%}%{z%}"
      : "=v"(v) : "m"(*(const float(*)[16])p), "Yk"(lanes_below(n)));
  return v;
}

template <>
FL_INLINE void store(float* p, Vec<float> v, long n) {
  if (n >= W<float>) return store(p, v);
  asm("vmovups %1, %0%{%2%}" : "+m"(*(float(*)[16])p) : "v"(v), "Yk"(lanes_below(n)));
}

template <>
FL_INLINE Vec<double> load(const double* p, long n) {
  if (n >= W<double>) return load(p);
  Vec<double> v;
  asm("vmovupd %1, %0%{%2%}%{z%}"
      : "=v"(v) : "m"(*(const double(*)[8])p), "Yk"(lanes_below(n)));
  return v;
}

template <>
FL_INLINE void store(double* p, Vec<double> v, long n) {
  if (n >= W<double>) return store(p, v);
  asm("vmovupd %1, %0%{%2%}" : "+m"(*(double(*)[8])p) : "v"(v), "Yk"(lanes_below(n)));
}
#elif defined(FL_TARGET) && FL_BYTES == 32
// Loads alone: AMD's CPUs take tens of cycles for a store with such a mask.
template <>
FL_INLINE Vec<float> load(const float* p, long n) {
  if (n >= W<float>) return load(p);
  const Types<float>::Int lane = {0, 1, 2, 3, 4, 5, 6, 7}, mask = lane < static_cast<int>(n);
  Vec<float> v;
  asm("vmaskmovps %1, %2, %0" : "=x"(v) : "m"(*(const float(*)[8])p), "x"(mask));
  return v;
}

template <>
FL_INLINE Vec<double> load(const double* p, long n) {
  if (n >= W<double>) return load(p);
  const Types<double>::Int lane = {0, 1, 2, 3}, mask = lane < static_cast<int64_t>(n);
  Vec<double> v;
  asm("vmaskmovpd %1, %2, %0" : "=x"(v) : "m"(*(const double(*)[4])p), "x"(mask));
  return v;
}
#endif

template <class T>
FL_INLINE Vec<T> broadcast(T x) {
  return x - Vec<T>{};  // minus, not plus: x - 0 is x for -0 too, so it costs one instruction
}

template <class T>
FL_INLINE Vec<T> clamp(Vec<T> x, T bound) {  // NaN stays NaN
  x = x > broadcast(bound) ? broadcast(bound) : x;
  return x < broadcast(-bound) ? broadcast(-bound) : x;
}

template <class T>
FL_INLINE T sum(Vec<T> v) {
  T total = 0;
  for (int lane = 0; lane < W<T>; ++lane) total += v[lane];
  return total;
}

// --- factors of a product ---
//
// A lane of a factor holds as many elements as have the size of a sum, one behind another along k:
// two of bfloat16, or one.

template <class T>
constexpr long deep = sizeof(Sum<T>) / sizeof(T);

// Steps of k that are made at once: a lane's, or those of a matrix unit (see product/unit.h).
template <class T>
constexpr long grain = deep<T>;
#ifdef FL_UNIT
template <>
constexpr long grain<Bf16> = 32;
#endif
#ifdef FL_TERMS  // of float32: see product/terms.h
constexpr int terms = FL_TERMS;
template <>
constexpr long grain<float> = 32;
#else
constexpr int terms = 1;
#endif
template <class T>
constexpr bool by_unit = grain<T> > deep<T>;
// Whether a factor is multiplied as a sum of bfloat16 terms.
template <class T>
constexpr bool by_terms = by_unit<T> && deep<T> == 1;

template <class T>
constexpr FactorKind factors_of = deep<T> > 1    ? FactorKind::bfloat16
                                  : sizeof(T) == 8 ? FactorKind::float64
                                  : !by_terms<T>   ? FactorKind::float32
                                  : terms == 1     ? FactorKind::one_term
                                                   : FactorKind::two_terms;

// Up to a whole grain.
template <class T>
FL_INLINE constexpr long whole(long k) {
  return (k + grain<T> - 1) / grain<T> * grain<T>;
}

template <class T>
struct FactorOf {
  typedef Vec<T> Type;
};

template <class T>
using Factor = typename FactorOf<T>::Type;

// W lanes from p on; or so many elements of them, and zeros.
template <class T>
FL_INLINE Factor<T> factors(const T* p) {
  return load(p);
}

template <class T>
FL_INLINE Factor<T> factors(const T* p, long n) {
  return load(p, n);
}

template <class T>
FL_INLINE void store_factors(T* p, Factor<T> factor) {
  store(p, factor);
}

// The lane at p, in every lane.
template <class T>
FL_INLINE Factor<T> factor(const T* p) {
  return broadcast(*p);
}

template <class T>
FL_INLINE Vec<T> dot(Vec<T> sum, Factor<T> a, Factor<T> b) {
  return sum + a * b;
}

// Adds a product with the W lanes at p, without a register for them.
template <class T>
FL_INLINE Vec<T> dot_with(Vec<T> sum, Factor<T> a, const T* p) {
  return dot<T>(sum, a, factors(p));
}

// W elements, of which n exist: where a factor is read by whole lanes, the others are zero.
template <class T>
FL_INLINE void store_left(T* p, Vec<T> v, long n) {
  if (by_terms<T> && n < W<T>) {
    store(p, Vec<T>{});
    store(p, v, n);
  } else {
    store(p, v);
  }
}

// Element `part` of W lanes from p on; the others are left as they are.
template <class T>
FL_INLINE void store_part(T* p, Vec<T> v, long) {
  store(p, v);
}

// --- functions ---

// exp(x) = scale * (1 + rest), with scale a power of two and |rest| < 0.42; |x| <= largest.
// rest keeps its relative accuracy near zero, which is what makes tanh accurate there.
template <class T>
struct Exp {
  Vec<T> scale, rest;
};

template <class T>
FL_INLINE Vec<T> taylor(Vec<T> r);  // exp(r) - 1 on |r| <= ln(2) / 2

template <>
FL_INLINE Vec<float> taylor<float>(Vec<float> r) {  // next term: 2^-26 of the sum
  Vec<float> p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  return p * (r * r) + r;
}

template <>
FL_INLINE Vec<double> taylor<double>(Vec<double> r) {  // next term: 2^-56 of the sum
  Vec<double> p = r * (1.0 / 6227020800) + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  return p * (r * r) + r;
}

template <class T>
FL_INLINE Exp<T> split_exp(Vec<T> x) {
  using C = Types<T>;
  using Int = typename C::Int;
  Vec<T> shifted = x * C::log2e + C::round;
  Vec<T> n = shifted - C::round;
  Vec<T> r = x - n * C::ln2_high;
  r = r - n * C::ln2_low;
  Int bits = ((Int)shifted << C::mantissa) + C::one;  // n is in the mantissa's low bits
  return {(Vec<T>)bits, taylor<T>(r)};
}

template <class T>
FL_INLINE Vec<T> exp(Vec<T> x) {
  Exp<T> e = split_exp<T>(clamp<T>(x, Types<T>::largest));
  return e.scale * e.rest + e.scale;
}

template <class T>
FL_INLINE Vec<T> sigmoid(Vec<T> x) {
  return 1 / (1 + exp<T>(-x));
}

// (exp(2x) - 1) / (exp(2x) + 1) of |x|, with the sign of x: below 0 the three roundings would all
// be of numbers near -1, and 1 - tanh(x)^2 three times as wrong as above.
template <class T>
FL_INLINE Vec<T> tanh(Vec<T> x) {
  using Int = typename Types<T>::Int;
  const Int sign = (Int)broadcast(T(-0.0));
  Vec<T> size = (Vec<T>)((Int)x & ~sign);
  size = size > broadcast(T(20)) ? broadcast(T(20)) : size;  // of which it is 1 in double; NaN stays
  Exp<T> e = split_exp<T>(2 * size);
  Vec<T> less_one = e.scale * e.rest + (e.scale - 1);
  Vec<T> positive = less_one / (less_one + 2);
  return (Vec<T>)((Int)positive | ((Int)x & sign));
}

}  // namespace fused_lstm::FL_ISA

#if defined(FL_EMULATED)
#include "bf16_plain.h"  // of bench/kernels, as product/unit.h
#elif defined(FL_BF16)
#include "isa/bf16.h"
#endif
