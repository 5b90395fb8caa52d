// AVX-512: products of prepared weights of float32 and bfloat16.
#if defined(__x86_64__)
#define FL_ISA prepared_avx512
#define FL_TARGET "avx512f,avx512bw,avx512dq,avx512vl,fma"
#define FL_BYTES 64
#define FL_INSTEAD "sweep_prepared.h"
#include "isa/prepared.h"
#include "isa/body.h"
#endif
