// The library's cells, by their names: their functions for one instruction set.
#pragma once

#include "cells/printed/all.h"

namespace fused_lstm::FL_ISA {

// The number-th cell, or one without a name behind the last.
template <class T>
OwnCell own_cell(long number) {
  const auto& all = own_cells<T>();
  return number < long(sizeof all / sizeof all[0]) ? all[number] : OwnCell{};
}

// The files of isa/ whose names begin with "cells" are compiled from here, and nothing else is: an edit
// of a cell compiles these alone.
#if defined(FL_BF16) && !defined(FL_TERMS)
template OwnCell own_cell<Bf16>(long);
#else
template OwnCell own_cell<float>(long);
#endif
#if !defined(FL_BF16)
template OwnCell own_cell<double>(long);
#endif

}  // namespace fused_lstm::FL_ISA
