#define FL_INSTEAD "alone.h"
#include "isa/amx.cpp"
