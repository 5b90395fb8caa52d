// AVX-512: 32 registers of 64 bytes. Compiled on x86 only, and run only where isa.cpp says so.
#if defined(__x86_64__)

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#endif

#define FL_ISA avx512
#define FL_NAME "avx512"
#define FL_BYTES 64
#include "isa/body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
