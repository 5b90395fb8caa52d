// AMX, and AVX-512 with AVX512_BF16 around it: products of tiles of bfloat16 (see product/unit.h).
// Compiled on x86 only, and run only where isa.cpp says so.
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

#define FL_ISA amx
#define FL_NAME "amx"
#define FL_BYTES 64
#define FL_BF16
#define FL_UNIT
#include "isa/body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
