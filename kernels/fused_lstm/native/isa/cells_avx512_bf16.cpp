// The library's cells for avx512_bf16.cpp.
#define FL_CELL
#define FL_INSTEAD "cells/cells.h"
#include "isa/avx512_bf16.cpp"
