// AVX-512 with AVX512_BF16: 32 registers of 64 bytes, products of pairs of bfloat16.
#if defined(__x86_64__)
#define FL_ISA avx512_bf16
#define FL_NAME "avx512_bf16"
#define FL_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"
#define FL_BYTES 64
#define FL_BF16
#include "isa/body.h"
#endif
