// The library's cells for emulated_1.cpp.
#define FL_CELL
#define FL_INSTEAD "cells/cells.h"
#include "emulated_1.cpp"
