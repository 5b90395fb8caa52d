// AVX2: products of prepared weights, those of int8 by pairs of 16 bits.
#if defined(__x86_64__)
#define FL_ISA prepared_avx2
#define FL_TARGET "avx2,fma"
#define FL_BYTES 32
#define FL_INSTEAD "sweep_prepared.h"
#include "isa/prepared.h"
#include "isa/body.h"
#endif
