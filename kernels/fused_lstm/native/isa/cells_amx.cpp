// The library's cells for amx.cpp.
#define FL_CELL
#define FL_INSTEAD "cells/cells.h"
#include "isa/amx.cpp"
