#define FL_INSTEAD "alone.h"
#include "isa/avx512_bf16.cpp"
