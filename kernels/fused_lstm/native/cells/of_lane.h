// The functions that finish a tile of a lane, and where the library's cells have theirs.
#pragma once

#include "cells/options.h"

namespace fused_lstm::FL_ISA {

// The number-th of the library's cells, or one without a name behind the last. See cells/cells.h, which
// a file of its own compiles.
template <class T>
OwnCell own_cell(long number);

// Functions that know nothing of layer normalization.
template <class T>
FL_INLINE Finish<T> cell_finish_of(const Lane<T>& lane) {
  return reinterpret_cast<Finish<T>>(lane.functions.finish);
}

template <class T>
FL_INLINE FinishBack<T> cell_finish_back_of(const Lane<T>& lane) {
  return reinterpret_cast<FinishBack<T>>(lane.functions.finish_back);
}

// A tile's functions: where the lane normalizes, the cell's own wait for the whole row.
template <class T>
FL_INLINE Finish<T> finish_of(const Lane<T>& lane) {
  return lane.scratch.by_h ? keep_by_h<T> : cell_finish_of(lane);
}

template <class T>
FL_INLINE FinishBack<T> finish_back_of(const Lane<T>& lane) {
  return lane.scratch.by_h ? keep_dh<T> : cell_finish_back_of(lane);
}

}  // namespace fused_lstm::FL_ISA
