// The library's cells for amx_2.cpp.
#define FL_CELL
#define FL_INSTEAD "cells/cells.h"
#include "isa/amx_2.cpp"
