#define FL_INSTEAD "alone.h"
#include "isa/amx_2.cpp"
