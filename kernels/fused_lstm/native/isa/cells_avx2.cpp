// The library's cells for avx2.cpp.
#define FL_CELL
#define FL_INSTEAD "cells/cells.h"
#include "isa/avx2.cpp"
