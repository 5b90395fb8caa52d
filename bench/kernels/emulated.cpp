// What the kernels of AMX compute, bit for bit, on any CPU, for tests: see product/unit.h.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("Os")  // nobody waits for it; vectors of 64 bytes are long programs in SSE2
#endif

#define FL_ISA emulated
#define FL_NAME "emulated"
#define FL_BYTES 64
#define FL_BF16
#define FL_UNIT
#define FL_EMULATED
#include "isa/body.h"
