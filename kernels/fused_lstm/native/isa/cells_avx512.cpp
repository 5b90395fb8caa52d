// The library's cells for avx512.cpp.
#define FL_CELL
#define FL_INSTEAD "cells/cells.h"
#include "isa/avx512.cpp"
