// Dropout between layers: a mask that is drawn where it is used, in the forward and again in the
// backward, and never stored. kernels/fused_lstm/reference/__init__.py, dropout_mask, says what it is.
#pragma once

#include "isa/kernels.h"
#include "product/divide.h"

namespace fused_lstm::FL_ISA {

constexpr int draws = 64;  // at once: whole vectors
typedef uint64_t Words __attribute__((vector_size(FL_BYTES)));

// The first word of Philox4x32-10 for the counters first, first + 1, ...
//
// A 32-bit word is the low half of a lane of 64, so that a lane also holds its product with
// another; what is in the high half of c1 and c3 never gets anywhere.
FL_INLINE void philox(uint64_t seed, uint64_t first, int32_t (&word)[draws]) {
  constexpr int lanes = FL_BYTES / sizeof(uint64_t);
  constexpr uint64_t low = 0xFFFFFFFF;
  for (int at = 0; at < draws; at += lanes) {
    Words c0, c1, c2 = {}, c3 = {};
    FL_UNROLL for (int lane = 0; lane < lanes; ++lane) c0[lane] = first + at + lane;
    c1 = c0 >> 32;
    uint64_t k0 = seed & low, k1 = seed >> 32;
    FL_UNROLL for (int round = 0; round < 10; ++round) {
      const Words product0 = (c0 & low) * 0xD2511F53u, product1 = (c2 & low) * 0xCD9E8D57u;
      c0 = (product1 >> 32) ^ c1 ^ k0;
      c1 = product1;
      c2 = (product0 >> 32) ^ c3 ^ k1;
      c3 = product0;
      k0 = (k0 + 0x9E3779B9u) & low;
      k1 = (k1 + 0xBB67AE85u) & low;
    }
    FL_UNROLL for (int lane = 0; lane < lanes; ++lane) {
      word[at + lane] = static_cast<int32_t>(c0[lane]);
    }
  }
}

// Draws the factors of the elements first, first + 1, .... Vectors, because a compiler makes a
// branch of a scalar choice, and this is one that no processor can predict.
FL_INLINE void draw(const Dropout& drop, uint64_t first, float (&mask)[draws]) {
  int32_t word[draws];
  philox(drop.seed, first, word);
  for (int at = 0; at < draws; at += W<float>) {
    typename Types<float>::Int bits;
    __builtin_memcpy(&bits, word + at, sizeof bits);
    bits = bits < 0 ? ~bits : bits;  // as Triton's uint_to_uniform_float
    const Vec<float> uniform = __builtin_convertvector(bits, Vec<float>) * 4.6566127342e-10f;
    const auto kept = uniform >= broadcast(drop.probability);
    store(mask + at, kept ? broadcast(drop.kept) : broadcast(drop.dropped));
  }
}

// W of a mask's elements.
template <class T>
FL_INLINE Vec<T> as_sums(const float* mask) {
  typedef float Own __attribute__((vector_size(W<T> * sizeof(float))));
  Own own;
  __builtin_memcpy(&own, mask, sizeof own);
  return __builtin_convertvector(own, Vec<T>);
}

// out[n] = mask(first + n)
template <class T>
void draw_mask(const Worker& worker, long count, uint64_t first, const Dropout& drop, T* out) {
  const Range mine = part(divide_up(count, draws), worker.id, worker.count);
  for (long begin = mine.begin * draws; begin < min(mine.end * draws, count); begin += draws) {
    float mask[draws];
    draw(drop, first + begin, mask);
    for (long i = 0; i < min(count - begin, draws); i += W<T>) {
      store(out + begin + i, as_sums<T>(mask + i), count - begin - i);
    }
  }
}

template <class T>
void dropout(const Worker& worker, long count, long first, const Dropout& drop, const T* in,
             T* out) {
  const Range mine = part(divide_up(count, draws), worker.id, worker.count);
  for (long begin = mine.begin * draws; begin < min(mine.end * draws, count); begin += draws) {
    float mask[draws];
    draw(drop, first + begin, mask);
    for (long i = 0; i < min(count - begin, draws); i += W<T>) {
      const long at = begin + i, size = count - at;
      store(out + at, load(in + at, size) * as_sums<T>(mask + i), size);
    }
  }
}

}  // namespace fused_lstm::FL_ISA
