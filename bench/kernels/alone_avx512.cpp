#define FL_INSTEAD "alone.h"
#include "isa/avx512.cpp"
