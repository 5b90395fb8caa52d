#define FL_INSTEAD "alone.h"
#include "isa/amx_1.cpp"
