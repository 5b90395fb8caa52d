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

// The number-th cell, or one without a name behind the last.
template <class T>
OwnCell own_cell(long number) {
  constexpr CellShape lstm{.sums = 4, .saved = 4, .is_lstm = true};
  constexpr CellShape coupled{.sums = 3, .saved = 3, .is_lstm = true};
  constexpr CellShape gru{.sums = 2, .of_h = 1, .of_x = 1, .saved = 4, .c_is_h = true};
  constexpr CellShape rnn{.sums = 1, .c_is_h = true};
  constexpr CellShape dreamer{.sums = 3, .saved = 4, .c_is_h = true, .in_layers = false};
  constexpr CellShape slstm{.sums = 4, .saved = 5, .states = 3, .in_layers = false};
  const OwnCell all[] = {
      {"lstm", lstm, functions_of<T>(finish_lstm, finish_lstm_back),
       functions_of<T>(finish_options<4>, finish_options_back<4>)},
      {"coupled", coupled, functions_of<T>(finish_coupled, finish_coupled_back),
       functions_of<T>(finish_options<3>, finish_options_back<3>)},
      {"gru", gru, functions_of<T>(finish_gru, finish_gru_back),
       functions_of<T>(finish_gru_zoneout, finish_gru_zoneout_back)},
      {"rnn_tanh", rnn, functions_of<T>(finish_rnn_tanh, finish_rnn_tanh_back), {}},
      {"rnn_relu", rnn, functions_of<T>(finish_rnn_relu, finish_rnn_relu_back), {}},
      {"gru_dreamer", dreamer, functions_of<T>(finish_gru_dreamer, finish_gru_dreamer_back), {}},
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
