// What every CPU of the architecture has: products of prepared weights in plain C++.
#define FL_ISA prepared_base
#define FL_BYTES 16
#include "isa/prepared_body.h"
