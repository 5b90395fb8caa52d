// Kernels for every CPU of an architecture: SSE2 on x86-64, NEON on Arm. 16-byte vectors.
#define FL_ISA base
#if defined(__aarch64__)
#define FL_NAME "neon"
#else
#define FL_NAME "sse2"
#endif
#define FL_BYTES 16
#include "isa/body.h"
