#define FL_INSTEAD "alone.h"
#include "emulated_2.cpp"
