// The library's cells for base.cpp.
#define FL_CELL
#define FL_INSTEAD "cells/cells.h"
#include "isa/base.cpp"
