#define FL_INSTEAD "alone.h"
#include "isa/avx2.cpp"
