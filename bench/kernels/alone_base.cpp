#define FL_INSTEAD "alone.h"
#include "isa/base.cpp"
