// AMX's products of prepared weights, on any CPU: see emulated.cpp.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("O1")
#endif

#define FL_ISA emulated_prepared
#define FL_BYTES 64
#define FL_BF16
#define FL_UNIT
#define FL_EMULATED
#define FL_INSTEAD "sweep_prepared.h"
#include "isa/prepared.h"
#include "isa/body.h"
