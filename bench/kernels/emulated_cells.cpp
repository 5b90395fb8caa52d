// The library's cells for emulated.cpp.
#define FL_CELL
#define FL_INSTEAD "cells/cells.h"
#include "emulated.cpp"
