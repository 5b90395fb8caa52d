// AVX-512 with AVX512_BF16: 32 registers of 64 bytes, products of pairs of bfloat16. Compiled on x86
// only, and run only where isa.cpp says so.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(                                                   \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,prefer-vector-width=512")
#endif

#define FL_ISA avx512_bf16
#define FL_NAME "avx512_bf16"
#define FL_BYTES 64
#define FL_BF16
#include "isa/body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
