// AVX2: 16 registers of 32 bytes.
#if defined(__x86_64__)
#define FL_ISA avx2
#define FL_NAME "avx2"
#define FL_TARGET "avx2,fma"
#define FL_BYTES 32
#include "isa/body.h"
#endif
