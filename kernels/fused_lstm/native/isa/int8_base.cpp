// What every CPU of the architecture has: products of weights of int8 in plain C++.
#define FL_ISA int8_base
#define FL_BYTES 16
#include "isa/int8_body.h"
