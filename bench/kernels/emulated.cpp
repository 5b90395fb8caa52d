// What the kernels of AMX compute, bit for bit, on any CPU, for tests: see product/unit.h.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O1")  // to compile in less time; nobody waits for its kernels
#endif

#define FL_ISA emulated
#define FL_NAME "emulated"
#define FL_BYTES 64
#define FL_BF16
#define FL_UNIT
#define FL_EMULATED
#include "isa/body.h"
