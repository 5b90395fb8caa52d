// Dropout between layers: a mask that is drawn where it is used, in the forward and again in the
// backward, and never stored. kernels/reference.py, dropout_mask, says what it is.
#pragma once

#include "args.h"
#include "tile.h"

namespace fused_lstm::FL_ISA {

constexpr int draws = 64;  // at once: whole vectors, for the compiler to vectorise the loops

// The first word of Philox4x32-10 for the counters first, first + 1, ...
FL_INLINE void philox(unsigned long long seed, unsigned long long first, uint32_t (&word)[draws]) {
  uint32_t c1[draws], c2[draws], c3[draws];
  for (int i = 0; i < draws; ++i) {
    word[i] = static_cast<uint32_t>(first + i);
    c1[i] = static_cast<uint32_t>((first + i) >> 32);
    c2[i] = c3[i] = 0;
  }
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < draws; ++i) {
      const uint64_t low = static_cast<uint64_t>(word[i]) * 0xD2511F53u;
      const uint64_t high = static_cast<uint64_t>(c2[i]) * 0xCD9E8D57u;
      word[i] = static_cast<uint32_t>(high >> 32) ^ c1[i] ^ k0;
      c2[i] = static_cast<uint32_t>(low >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<uint32_t>(high);
      c3[i] = static_cast<uint32_t>(low);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

template <class T>
void dropout(const Worker& worker, long count, long first, const Dropout& drop, const T* in,
             T* out) {
  const Range mine = part(divide_up(count, draws), worker.id, worker.count);
  for (long begin = mine.begin * draws; begin < min(mine.end * draws, count); begin += draws) {
    uint32_t word[draws];
    philox(drop.seed, first + begin, word);
    T mask[draws];
    for (int i = 0; i < draws; ++i) {  // as Triton's uint_to_uniform_float
      const int32_t bits = static_cast<int32_t>(word[i]);
      const float uniform = static_cast<float>(bits < 0 ? ~bits : bits) * 4.6566127342e-10f;
      mask[i] = uniform >= drop.probability ? drop.scale : 0.0f;
    }
    const long size = min(count - begin, draws);
    for (long i = 0; i < size; ++i) out[begin + i] = in[begin + i] * mask[i];
  }
}

}  // namespace fused_lstm::FL_ISA
