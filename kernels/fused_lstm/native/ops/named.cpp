// Cells by their names, as the operators' arguments have them.
#include <algorithm>
#include <array>
#include <utility>

#include "ops/call.h"

namespace fused_lstm {
namespace {

constexpr std::pair<std::string_view, CellKind> names[] = {
    {"lstm", CellKind::lstm},
    {"coupled", CellKind::coupled},
    {"gru", CellKind::gru},
    {"rnn_tanh", CellKind::rnn_tanh},
    {"rnn_relu", CellKind::rnn_relu},
    {"slstm", CellKind::slstm},
    {"slstm_exponential", CellKind::slstm_exponential},
    {"gru_dreamer", CellKind::gru_dreamer},
};

std::optional<CellKind> kind_of(std::string_view name) {
  const auto* const found = std::find_if(std::begin(names), std::end(names),
                                         [&](const auto& entry) { return entry.first == name; });
  return found == std::end(names) ? std::nullopt : std::optional(found->second);
}

// Takes a name off the front of a list with commas, if it is there.
bool take(std::string_view& list, std::string_view name) {
  const bool has =
      list.starts_with(name) && (list.size() == name.size() || list[name.size()] == ',');
  if (has) list.remove_prefix(std::min(name.size() + 1, list.size()));
  return has;
}

// A cell of the library's, which the list names after layer_norm.
CellKind layer_cell_of(const std::string& cell, std::string_view list, CellOptions& options) {
  options.peephole = take(list, "peephole");
  const std::optional<CellKind> kind = list.empty() ? CellKind::lstm : kind_of(list);
  const bool gru = kind == CellKind::gru;
  const bool rnn = kind == CellKind::rnn_tanh || kind == CellKind::rnn_relu;
  CHECK_VALUE(!gru || !options.peephole, "cell: got '", cell,
              "'; expected gru alone or with layer_norm");
  const bool known = list.empty() || gru ||
                     (kind == CellKind::coupled && !options.norm) ||
                     (rnn && !options.norm && !options.peephole);
  CHECK_VALUE(known, "cell: got '", cell,
              "'; expected layer_norm, peephole or coupled (not layer_norm with coupled), gru,"
              " layer_norm with gru, rnn_tanh or rnn_relu, or a cell of your own that this process has"
              " compiled: import the module that makes it, and call its on_native()");
  return *kind;
}

}  // namespace

NamedCell cell_of(const std::string& cell, const std::vector<double>& rates, bool drawn) {
  std::string_view list = cell;
  CellOptions options{};
  options.norm = take(list, "layer_norm");
  const std::optional<CellKind> custom = custom_kind(list);
  const CellKind kind = custom ? *custom : layer_cell_of(cell, list, options);
  if (custom) options.peephole = shape_of(kind).weights > 0;
  CHECK_VALUE(rates.size() == 4 || (rates.empty() && (cell.empty() || custom)), "rates: got ",
              rates.size(), "; expected four, or none for nn.LSTM's cell");
  std::array<double, 4> rate{};
  std::copy(rates.begin(), rates.end(), rate.begin());
  for (const double each : rate) {
    CHECK_VALUE(each >= 0 && each <= 1, "rates: got ", each, "; expected a number in [0, 1]");
    CHECK_VALUE(each == 0 || custom || has_c(kind), "rates: got ", each, "; expected 0 for ", cell);
  }
  const bool lstm = kind == CellKind::lstm || kind == CellKind::coupled;
  CHECK_VALUE(rate[3] == 0 || lstm, "rates: got candidate_dropout ", rate[3],
              "; expected 0 for a GRU or a custom cell");
  options.zoneout_h = rate[0];
  options.zoneout_c = kind == CellKind::gru ? 0 : rate[1];  // whose state is h
  options.recurrent = drawn ? rate[2] : 0;
  options.candidate = drawn ? rate[3] : 0;
  options.on = options.peephole || options.norm || options.zoneout_h > 0 ||
               options.zoneout_c > 0 || options.recurrent > 0 || options.candidate > 0;
  return {kind, options};
}

CellKind lane_cell_of(const std::string& cell) {
  if (const std::optional<CellKind> custom = custom_kind(cell)) {
    const CellShape shape = shape_of(*custom);
    CHECK_VALUE(shape.h_gates() > 0 && shape.weights == 0, "cell: got '", cell,
                "'; expected one with gates of h, and without weights");
    return *custom;
  }
  const std::optional<CellKind> kind = kind_of(cell);
  CHECK_VALUE(kind && kind != CellKind::coupled, "cell: got '", cell,
              "'; expected lstm, gru, gru_dreamer, rnn_tanh, rnn_relu, slstm or slstm_exponential");
  return *kind;
}

}  // namespace fused_lstm
