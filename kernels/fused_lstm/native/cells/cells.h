// The library's cells, by their names: their functions for one instruction set.
#pragma once

#include "cells/of_lane.h"
#include "cells/printed/coupled.h"
#include "cells/printed/gru.h"
#include "cells/printed/gru_dreamer.h"
#include "cells/printed/gru_zoneout.h"
#include "cells/printed/lstm.h"
#include "cells/printed/rnn_relu.h"
#include "cells/printed/rnn_tanh.h"
#include "cells/printed/slstm.h"
#include "cells/printed/slstm_exponential.h"

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
  const OwnCell all[] = {
      {"lstm", LstmCell::shape, printed<LstmCell, T>(),
       functions_of<T>(finish_options<4>, finish_options_back<4>)},
      {"coupled", CoupledCell::shape, printed<CoupledCell, T>(),
       functions_of<T>(finish_options<3>, finish_options_back<3>)},
      {"gru", GruCell::shape, printed<GruCell, T>(), printed<GruZoneoutCell, T>()},
      {"rnn_tanh", RnnTanhCell::shape, printed<RnnTanhCell, T>(), {}},
      {"rnn_relu", RnnReluCell::shape, printed<RnnReluCell, T>(), {}},
      {"gru_dreamer", GruDreamerCell::shape, printed<GruDreamerCell, T>(), {}},
      {"slstm", SlstmCell::shape, printed<SlstmCell, T>(), {}},
      {"slstm_exponential", SlstmExponentialCell::shape, printed<SlstmExponentialCell, T>(), {}},
  };
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
