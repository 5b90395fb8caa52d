// AMX's products of float32 as sums of 2 bfloat16 terms: see product/terms.h.
#if defined(__x86_64__)
#define FL_ISA amx_2
#define FL_NAME "amx, 2 terms"
#define FL_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"
#define FL_BYTES 64
#define FL_BF16
#define FL_UNIT
#define FL_TERMS 2
#include "isa/body.h"
#endif
