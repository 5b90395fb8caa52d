// The library's cells for amx_1.cpp.
#define FL_CELL
#define FL_INSTEAD "cells/cells.h"
#include "isa/amx_1.cpp"
