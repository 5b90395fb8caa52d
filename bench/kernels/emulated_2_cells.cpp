// The library's cells for emulated_2.cpp.
#define FL_CELL
#define FL_INSTEAD "cells/cells.h"
#include "emulated_2.cpp"
