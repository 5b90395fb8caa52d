#define FL_INSTEAD "alone.h"
#include "emulated_1.cpp"
