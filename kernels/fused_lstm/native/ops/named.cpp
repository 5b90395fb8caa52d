// Cells by their names, as the operators' arguments have them.
#include <algorithm>
#include <array>

#include "ops/call.h"

namespace fused_lstm {
namespace {

// Takes a name off the front of a list with commas, if it is there.
bool take(std::string_view& list, std::string_view name) {
  const bool has =
      list.starts_with(name) && (list.size() == name.size() || list[name.size()] == ',');
  if (has) list.remove_prefix(std::min(name.size() + 1, list.size()));
  return has;
}

}  // namespace

NamedCell cell_of(const Isa& isa, const std::string& cell, const std::vector<double>& rates,
                  bool drawn) {
  std::string_view name = cell;
  CellOptions options{};
  options.norm = take(name, "layer_norm");
  options.peephole = take(name, "peephole");
  if (name.empty()) name = "lstm";
  const Cell* found = find_cell(isa, name);
  const auto fits = [&](const CellShape& shape) {
    const bool coupled = shape.is_lstm && shape.sums == 3;
    return shape.in_layers && !(options.norm && coupled) && (!options.peephole || shape.is_lstm);
  };
  CHECK_VALUE(found && fits(found->shape), "cell: got '", cell,
              "'; expected layer_norm, peephole or coupled (not layer_norm with coupled), gru,"
              " layer_norm with gru, rnn_tanh or rnn_relu, or a cell of your own that this process has"
              " compiled: import the module that makes it, and call its on_native()");
  const CellShape& shape = found->shape;
  options.peephole = options.peephole || shape.weights > 0;
  // Graphs that were saved before have a fourth, of an option that went.
  const bool three = rates.size() == 3 || (rates.size() == 4 && rates[3] == 0);
  CHECK_VALUE(three || rates.empty(), "rates: got ", rates.size(),
              "; expected three, or none for nn.LSTM's cell");
  std::array<double, 3> rate{};
  std::copy_n(rates.begin(), std::min(rates.size(), rate.size()), rate.begin());
  for (const double each : rate) {
    CHECK_VALUE(each >= 0 && each <= 1, "rates: got ", each, "; expected a number in [0, 1]");
    CHECK_VALUE(each == 0 || shape.saved > 0, "rates: got ", each, "; expected 0 for ", cell);
  }
  options.zoneout_h = rate[0];
  options.zoneout_c = shape.c_is_h ? 0 : rate[1];
  options.recurrent = drawn ? rate[2] : 0;
  options.on = options.peephole || options.norm || options.zoneout_h > 0 ||
               options.zoneout_c > 0 || options.recurrent > 0;
  return {found, options};
}

const Cell& lane_cell_of(const Isa& isa, const std::string& cell) {
  const Cell* const found = find_cell(isa, cell);
  CHECK_VALUE(found && found->shape.h_gates() > 0 && found->shape.weights == 0, "cell: got '", cell,
              "'; expected lstm, gru, gru_dreamer, rnn_tanh, rnn_relu, slstm or slstm_exponential, or"
              " a cell of your own that has gates of h and no weights");
  return *found;
}

}  // namespace fused_lstm
