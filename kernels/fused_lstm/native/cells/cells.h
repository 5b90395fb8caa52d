// The library's cells, by their names, and the function that finishes a tile of a lane.
#pragma once

#include "cells/printed/coupled.h"
#include "cells/printed/gru.h"
#include "cells/printed/gru_dreamer.h"
#include "cells/printed/gru_zoneout.h"
#include "cells/printed/lstm.h"
#include "cells/printed/rnn_relu.h"
#include "cells/printed/rnn_tanh.h"
#include "cells/slstm.h"

namespace fused_lstm::FL_ISA {

template <class T>
FL_INLINE CellFunctions functions_of(Finish<T> finish, FinishBack<T> finish_back) {
  return {reinterpret_cast<void*>(finish), reinterpret_cast<void*>(finish_back)};
}

template <class Cell, class T>
FL_INLINE CellFunctions printed() {
  return functions_of<T>(finish<Cell, T>, finish_back<Cell, T>);
}

// The number-th cell, or one without a name behind the last.
template <class T>
OwnCell own_cell(long number) {
  constexpr CellShape slstm{.sums = 4, .saved = 5, .states = 3, .in_layers = false};
  const OwnCell all[] = {
      {"lstm", LstmCell::shape, printed<LstmCell, T>(),
       functions_of<T>(finish_options<4>, finish_options_back<4>)},
      {"coupled", CoupledCell::shape, printed<CoupledCell, T>(),
       functions_of<T>(finish_options<3>, finish_options_back<3>)},
      {"gru", GruCell::shape, printed<GruCell, T>(), printed<GruZoneoutCell, T>()},
      {"rnn_tanh", RnnTanhCell::shape, printed<RnnTanhCell, T>(), {}},
      {"rnn_relu", RnnReluCell::shape, printed<RnnReluCell, T>(), {}},
      {"gru_dreamer", GruDreamerCell::shape, printed<GruDreamerCell, T>(), {}},
      {"slstm", slstm, functions_of<T>(finish_slstm<false>, finish_slstm_back), {}},
      {"slstm_exponential", slstm, functions_of<T>(finish_slstm<true>, finish_slstm_back), {}},
  };
  return number < long(sizeof all / sizeof all[0]) ? all[number] : OwnCell{};
}

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
  return lane.by_h ? keep_by_h<T> : cell_finish_of(lane);
}

template <class T>
FL_INLINE FinishBack<T> finish_back_of(const Lane<T>& lane) {
  return lane.by_h ? keep_dh<T> : cell_finish_back_of(lane);
}

}  // namespace fused_lstm::FL_ISA
