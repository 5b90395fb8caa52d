// Printed by fused_lstm.cells.generate from cells/library.py. Do not edit.
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

// The library's cells, for one instruction set.
template <class T>
const auto& own_cells() {
  static const OwnCell all[] = {
      {"lstm", LstmCell::shape, printed<LstmCell, T>(),
       functions_of<T>(finish_options<4>, finish_options_back<4>)},
      {"coupled", CoupledCell::shape, printed<CoupledCell, T>(),
       functions_of<T>(finish_options<3>, finish_options_back<3>)},
      {"gru", GruCell::shape, printed<GruCell, T>(),
       printed<GruZoneoutCell, T>()},
      {"rnn_tanh", RnnTanhCell::shape, printed<RnnTanhCell, T>(),
       {}},
      {"rnn_relu", RnnReluCell::shape, printed<RnnReluCell, T>(),
       {}},
      {"slstm", SlstmCell::shape, printed<SlstmCell, T>(),
       {}},
      {"slstm_exponential", SlstmExponentialCell::shape, printed<SlstmExponentialCell, T>(),
       {}},
      {"gru_dreamer", GruDreamerCell::shape, printed<GruDreamerCell, T>(),
       {}},
  };
  return all;
}

}  // namespace fused_lstm::FL_ISA
