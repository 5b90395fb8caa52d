// AVX-512: 32 registers of 64 bytes.
#if defined(__x86_64__)
#define FL_ISA avx512
#define FL_NAME "avx512"
#define FL_TARGET "avx512f,avx512bw,avx512dq,avx512vl,fma"
#define FL_BYTES 64
#include "isa/body.h"
#endif
