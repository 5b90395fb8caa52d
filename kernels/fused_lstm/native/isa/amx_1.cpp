// AMX's products of float32 as sums of 1 bfloat16 term: see product/terms.h.
#if defined(__x86_64__)
#define FL_ISA amx_1
#define FL_NAME "amx, 1 term"
#define FL_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"
#define FL_BYTES 64
#define FL_BF16
#define FL_UNIT
#define FL_TERMS 1
#include "isa/body.h"
#endif
