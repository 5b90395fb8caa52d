// What the kernels of amx_1.cpp compute, bit for bit, on any CPU, for tests.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O1")  // as emulated.cpp
#endif

#define FL_ISA emulated_1
#define FL_NAME "emulated, 1 term"
#define FL_BYTES 64
#define FL_BF16
#define FL_UNIT
#define FL_EMULATED
#define FL_TERMS 1
#include "isa/body.h"
