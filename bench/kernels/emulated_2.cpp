// What the kernels of amx_2.cpp compute, bit for bit, on any CPU, for tests.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O1")  // as emulated.cpp
#endif

#define FL_ISA emulated_2
#define FL_NAME "emulated, 2 terms"
#define FL_BYTES 64
#define FL_BF16
#define FL_UNIT
#define FL_EMULATED
#define FL_TERMS 2
#include "isa/body.h"
