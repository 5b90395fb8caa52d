// Chooses the function that finishes a tile of a lane: its cell's.
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

// Functions that know nothing of layer normalization.
template <class T>
FL_INLINE Finish<T> cell_finish_of(const Lane<T>& lane) {
  if (lane.cell >= CellKind::custom) {
    return reinterpret_cast<Finish<T>>(functions_of<T>(custom_cell(lane.cell))[0]);
  }
  switch (lane.cell) {
    case CellKind::lstm:
      return lane.added ? finish_added<4, T> : finish_lstm<T>;
    case CellKind::coupled:
      return lane.added ? finish_added<3, T> : finish_coupled<T>;
    case CellKind::gru:
      return lane.added ? finish_gru_zoneout<T> : finish_gru<T>;
    case CellKind::gru_dreamer:
      return finish_gru_dreamer<T>;
    case CellKind::rnn_tanh:
      return finish_rnn_tanh<T>;
    case CellKind::slstm:
      return finish_slstm<false, T>;
    case CellKind::slstm_exponential:
      return finish_slstm<true, T>;
    default:
      return finish_rnn_relu<T>;
  }
}

template <class T>
FL_INLINE FinishBack<T> cell_finish_back_of(const Lane<T>& lane) {
  if (lane.cell >= CellKind::custom) {
    return reinterpret_cast<FinishBack<T>>(functions_of<T>(custom_cell(lane.cell))[1]);
  }
  switch (lane.cell) {
    case CellKind::lstm:
      return lane.added ? finish_added_back<4, T> : finish_lstm_back<T>;
    case CellKind::coupled:
      return lane.added ? finish_added_back<3, T> : finish_coupled_back<T>;
    case CellKind::gru:
      return lane.added ? finish_gru_zoneout_back<T> : finish_gru_back<T>;
    case CellKind::gru_dreamer:
      return finish_gru_dreamer_back<T>;
    case CellKind::rnn_tanh:
      return finish_rnn_tanh_back<T>;
    case CellKind::slstm:
    case CellKind::slstm_exponential:
      return finish_slstm_back<T>;
    default:
      return finish_rnn_relu_back<T>;
  }
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
