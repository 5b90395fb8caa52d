// bfloat16 in memory, float32 in registers, and products of pairs by AVX512_BF16.
//
// VDPBF16PS rounds to nearest even whatever the CPU's mode, takes denormal factors and sums for 0
// and makes no denormals; so does the conversion to bfloat16 here.
#pragma once

namespace fused_lstm::FL_ISA {

typedef uint16_t Halves __attribute__((vector_size(32)));

FL_INLINE Vec<Bf16> widened(Halves v) {
  typedef uint32_t Wide __attribute__((vector_size(64)));
  return (Vec<Bf16>)(__builtin_convertvector(v, Wide) << 16);
}

FL_INLINE Halves narrowed(Vec<Bf16> v) {
  Halves halves;
  asm("vcvtneps2bf16 %1, %0" : "=v"(halves) : "v"(v));
  return halves;
}

template <>
FL_INLINE Vec<Bf16> load(const Bf16* p) {
  Halves halves;
  __builtin_memcpy(&halves, p, sizeof halves);
  return widened(halves);
}

template <>
FL_INLINE Vec<Bf16> load(const Bf16* p, long n) {
  Halves halves;
  asm("vmovdqu16 %1, %0%{%2%}%{z%}"
      : "=v"(halves) : "m"(*(const Bf16(*)[16])p), "Yk"(lanes_below(n)));
  return widened(halves);
}

template <>
FL_INLINE void store(Bf16* p, Vec<Bf16> v) {
  const Halves halves = narrowed(v);
  __builtin_memcpy(p, &halves, sizeof halves);
}

template <>
FL_INLINE void store(Bf16* p, Vec<Bf16> v, long n) {
  asm("vmovdqu16 %1, %0%{%2%}" : "+m"(*(Bf16(*)[16])p) : "v"(narrowed(v)), "Yk"(lanes_below(n)));
}

template <>
FL_INLINE void store_left(Bf16* p, Vec<Bf16> v, long n) {
  Halves halves;
  asm("vmovdqu16 %1, %0%{%2%}%{z%}" : "=v"(halves) : "v"(narrowed(v)), "Yk"(lanes_below(n)));
  __builtin_memcpy(p, &halves, sizeof halves);
}

// --- factors: a lane is a pair along k ---

template <>
struct FactorOf<Bf16> {
  typedef int32_t Type __attribute__((vector_size(64)));
};

template <>
FL_INLINE void store_factors(Bf16* p, Factor<Bf16> factor) {
  __builtin_memcpy(p, &factor, sizeof factor);
}

#if !defined(FL_CELL)  // which multiplies nothing
template <>
FL_INLINE Factor<Bf16> factors(const Bf16* p) {
  return (Factor<Bf16>)_mm512_loadu_si512(p);
}

template <>
FL_INLINE Factor<Bf16> factors(const Bf16* p, long n) {
  return (Factor<Bf16>)_mm512_maskz_loadu_epi16(lanes_below(n), p);
}

template <>
FL_INLINE Factor<Bf16> factor(const Bf16* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return (Factor<Bf16>)_mm512_set1_epi32(pair);
}

template <>
FL_INLINE Vec<Bf16> dot<Bf16>(Vec<Bf16> sum, Factor<Bf16> a, Factor<Bf16> b) {
  return (Vec<Bf16>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// By hand: GCC 12 loads the factor into a register first, and a sum must leave its own for it.
template <>
FL_INLINE Vec<Bf16> dot_with<Bf16>(Vec<Bf16> sum, Factor<Bf16> a, const Bf16* p) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "m"(*(const char(*)[64])p));
  return sum;
}

template <>
FL_INLINE void store_part(Bf16* p, Vec<Bf16> v, long part) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)narrowed(v));
  const __m512i both = part ? _mm512_slli_epi32(low, 16) : low;
  _mm512_mask_storeu_epi16(p, part ? 0xaaaaaaaa : 0x55555555, both);
}
#endif

}  // namespace fused_lstm::FL_ISA
