// Functions of vectors for cells, which isa/simd.h does not have.
#pragma once

#include "cells/step.h"

namespace fused_lstm::FL_ISA {

template <class T>
FL_INLINE Vec<T> maximum(Vec<T> a, Vec<T> b) {  // NaN where either is
  return ((a != a) | (a > b)) ? a : b;
}

template <class T>
FL_INLINE Vec<T> minimum(Vec<T> a, Vec<T> b) {
  return ((a != a) | (a < b)) ? a : b;
}

template <class T>
FL_INLINE Vec<T> absolute(Vec<T> x) {
  using Int = typename Types<T>::Int;
  return (Vec<T>)((Int)x & ~(Int)broadcast(T(-0.0)));
}

template <class T>
FL_INLINE Vec<T> relu(Vec<T> x) {
  return x < Vec<T>{} ? Vec<T>{} : x;
}

template <class T>
FL_INLINE Vec<T> floor(Vec<T> x) {
  const T whole = Types<T>::round / 3 * 2;  // from here on T has no fractions
  const Vec<T> size = absolute<T>(x), near = (size + whole) - whole;
  const Vec<T> even = x < Vec<T>{} ? -near : near;
  return size < broadcast(whole) ? (even > x ? even - 1 : even) : x;
}

// Calls a function of libm lane by lane: right for every x, and few cells have one.
template <class T, class F>
FL_INLINE Vec<T> by_lanes(Vec<T> x, const F& function) {
  for (int lane = 0; lane < W<T>; ++lane) x[lane] = T(function(T(x[lane])));
  return x;
}

template <class T>
FL_INLINE Vec<T> sin(Vec<T> x) {
  return by_lanes<T>(x, [](T v) { return sizeof(T) == 4 ? __builtin_sinf(v) : __builtin_sin(v); });
}

template <class T>
FL_INLINE Vec<T> cos(Vec<T> x) {
  return by_lanes<T>(x, [](T v) { return sizeof(T) == 4 ? __builtin_cosf(v) : __builtin_cos(v); });
}

template <class T>
FL_INLINE Vec<T> erf(Vec<T> x) {
  return by_lanes<T>(x, [](T v) { return sizeof(T) == 4 ? __builtin_erff(v) : __builtin_erf(v); });
}

template <class T>
FL_INLINE Vec<T> square_root(Vec<T> x) {
  for (int lane = 0; lane < W<T>; ++lane) x[lane] = __builtin_sqrt(x[lane]);
  return x;
}

template <class T>
FL_INLINE Vec<T> expm1(Vec<T> x) {
  const Exp<T> e = split_exp<T>(clamp<T>(x, Types<T>::largest));
  return e.scale * e.rest + (e.scale - 1);
}

template <class T>
FL_INLINE Vec<T> elu(Vec<T> x) {
  return x > Vec<T>{} ? x : expm1<T>(x < Vec<T>{} ? x : Vec<T>{});
}

// log(m) + e log(2), x = m 2^e and m in [sqrt(1/2), sqrt(2)]: twice the inverse hyperbolic tangent of
// (m - 1) / (m + 1), which is at most 0.172.
template <class T>
FL_INLINE Vec<T> log(Vec<T> x) {
  using C = Types<T>;
  using Int = typename C::Int;
  constexpr int terms = sizeof(T) == 4 ? 5 : 11;
  const Int bits = (Int)x;
  const auto low = (decltype(C::one)(1) << C::mantissa) - 1;
  Int e = (bits >> C::mantissa) - (C::one >> C::mantissa);
  Vec<T> m = (Vec<T>)((bits & low) | C::one);
  const auto above = m > broadcast(T(1.41421356237309505));
  m = above ? m * T(0.5) : m;
  e = e - above;  // a true lane is -1
  const Vec<T> n = __builtin_convertvector(e, Vec<T>), s = (m - 1) / (m + 1), q = s * s;
  Vec<T> sum = broadcast(T(1) / (2 * terms - 1));
  FL_UNROLL for (int k = terms - 2; k >= 0; --k) sum = sum * q + T(1) / (2 * k + 1);
  Vec<T> y = n * C::ln2_high + (n * C::ln2_low + 2 * s * sum);
  const Vec<T> infinite = broadcast(T(__builtin_inf()));
  y = x == infinite ? infinite : x == Vec<T>{} ? -infinite : y;
  return x < Vec<T>{} ? broadcast(T(__builtin_nan(""))) : x != x ? x : y;
}

template <class T>
FL_INLINE Vec<T> log1p(Vec<T> x) {
  const Vec<T> u = 1 + x, rest = u - 1;
  return rest == Vec<T>{} ? x : log<T>(u) * (x / (rest == Vec<T>{} ? broadcast(T(1)) : rest));
}

// log(1 + y) of 0 <= y <= 1: twice the inverse hyperbolic tangent of s = y / (2 + y), at most 1/3. Much
// less than log1p.
template <class T>
FL_INLINE Vec<T> log_one_plus(Vec<T> y) {
  constexpr int terms = sizeof(T) == 4 ? 7 : 16;  // the next one is 2^-26 or 2^-56 of the sum
  const Vec<T> s = y / (2 + y), square = s * s;
  Vec<T> sum = broadcast(T(1) / (2 * terms - 1));
  FL_UNROLL for (int k = terms - 2; k >= 0; --k) sum = sum * square + T(1) / (2 * k + 1);
  return 2 * s * sum;
}

template <class T>
FL_INLINE Vec<T> log_sigmoid(Vec<T> x) {
  return minimum<T>(x, Vec<T>{}) - log_one_plus<T>(exp<T>(-absolute<T>(x)));
}

}  // namespace fused_lstm::FL_ISA
