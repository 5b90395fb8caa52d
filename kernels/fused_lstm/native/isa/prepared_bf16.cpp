// AVX-512 with AVX512_BF16: products of prepared weights of bfloat16, two along k in each lane.
#if defined(__x86_64__)
#define FL_ISA prepared_bf16
#define FL_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"
#define FL_BYTES 64
#define FL_BF16
#define FL_INSTEAD "sweep_prepared.h"
#include "isa/prepared.h"
#include "isa/body.h"
#endif
