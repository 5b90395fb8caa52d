// AMX: products of prepared weights of bfloat16 and int8 with several rows; of fewer as AVX512_BF16 and
// AVX512_VNNI make them.
#if defined(__x86_64__)
#define FL_ISA prepared_amx
#define FL_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,fma"
#define FL_BYTES 64
#define FL_BF16
#define FL_VNNI
#define FL_UNIT
#define FL_INSTEAD "sweep_prepared.h"
#include "isa/prepared.h"
#include "isa/body.h"
#endif
