// Products of prepared weights in plain C++, for every CPU of the architecture.
#define FL_ISA prepared_base
#define FL_BYTES 16
#define FL_INSTEAD "sweep_prepared.h"
#include "isa/prepared.h"
#include "isa/body.h"
