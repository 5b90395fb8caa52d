// AMX, and AVX-512 with AVX512_BF16 around it: products of tiles of bfloat16 (see product/unit.h).
#if defined(__x86_64__)
#define FL_ISA amx
#define FL_NAME "amx"
#define FL_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma"
#define FL_BYTES 64
#define FL_BF16
#define FL_UNIT
#include "isa/body.h"
#endif
