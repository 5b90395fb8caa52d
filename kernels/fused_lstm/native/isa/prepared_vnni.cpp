// AVX-512 with AVX512_VNNI: products of prepared weights of int8, four along k in each lane.
#if defined(__x86_64__)
#define FL_ISA prepared_vnni
#define FL_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma"
#define FL_BYTES 64
#define FL_VNNI
#define FL_INSTEAD "sweep_prepared.h"
#include "isa/prepared.h"
#include "isa/body.h"
#endif
