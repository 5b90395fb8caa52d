// Zoneout of a generated cell's states.
#pragma once

#include "cells/options.h"

namespace fused_lstm::FL_ISA {

// Returns the part of a row's units that keep their states of the step before. mask: null, or zoneout
// of h or of c.
template <class T>
FL_INLINE Vec<T> part_kept(const StepMask<T>* mask, const Lane<T>& lane, long place, long row,
                           long unit) {
  return mask && mask->values ? load_mask(*mask, lane, place, row, unit) : Vec<T>{};
}

}  // namespace fused_lstm::FL_ISA
