#define FL_INSTEAD "alone.h"
#include "emulated.cpp"
