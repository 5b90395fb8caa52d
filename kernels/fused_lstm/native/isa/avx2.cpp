// AVX2: 16 registers of 32 bytes. Compiled on x86 only, and run only where isa.cpp says so.
#if defined(__x86_64__)

#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define FL_ISA avx2
#define FL_NAME "avx2"
#define FL_BYTES 32
#include "isa/body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
