// The operator `plan`: what the operators `lstm` and `lstm_backward` would do, in words.
#include "plan.h"

#include <sstream>
#include <string_view>
#include <utility>

#include "isa/caches.h"
#include "isa/isa.h"
#include "ops.h"
#include "ops/call.h"
#include "threads.h"

namespace fused_lstm {
namespace {

std::ostream& operator<<(std::ostream& out, const Buffer& b) {
  out << b.count << " x ";
  return b.rows == 1 ? out << b.columns : out << b.rows << " x " << b.columns;
}

void print_buffers(std::ostream& out, const char* pass, const Plan& plan, const Machine& m) {
  const std::pair<const char*, const Buffer*> named[] = {
      {"h", &plan.h},
      {"c", &plan.c},
      {"gates", &plan.gates},
      {"input part", &plan.input_part},
      {"by h", &plan.by_h},
      {"unprojected", &plan.unprojected},
      {"ready", &plan.ready},
      {"dgates", &plan.dgates},
      {"dh", &plan.dh},
      {"between", &plan.between},
      {"partial", &plan.partial},
      {"sampled", &plan.sampled},
      {"dropped", &plan.dropped},
      {"recurrent", &plan.recurrent},
      {"packed", &plan.packed},
      {"panels", &plan.panels},
  };
  double bytes = 0;
  out << pass << ":";
  for (const auto& [name, buffer] : named) {
    const double size = static_cast<double>(buffer->count) * buffer->rows * buffer->columns;
    if (size > 0) out << " " << name << " " << *buffer << ",";
    bytes += size * (buffer->sums ? m.sum_bytes : m.bytes);
  }
  out << " " << static_cast<long>(bytes / 1024) << " KiB\n";
}

const char* order_of(const Plan& plan) {
  if (plan.wavefront) return "a wavefront";
  if (!plan.is_short) return "in turns";
  return plan.alone ? "a short call on one thread" : "a short call";
}

// A few lines to read, of the kernels that run forwards and of those that run backwards.
std::string to_string(const Sizes& s, const Machine& m, const Machine& backward, bool save,
                      bool together) {
  const Plan forward = plan_of(s, m, save ? Pass::forward : Pass::inference, together);
  const auto shape = [](const Shape& tile) {
    return std::to_string(tile.rows) + " x " + std::to_string(tile.vectors);
  };
  std::ostringstream out;
  out << m.isa << ", " << m.threads << " threads, " << 8 * m.bytes << "-bit\n";
  out << "tiles: rows by vectors of " << m.shapes.lanes << " in " << m.shapes.registers
      << " registers: gates " << shape(m.shapes.gates) << ", plain " << shape(m.shapes.plain)
      << ", transposed " << shape(m.shapes.transposed) << "\n";
  out << "layers: " << order_of(forward) << "; lanes abreast: " << forward.abreast
      << "; workers: " << forward.team << "; input product: ";
  if (forward.input_in_step) {
    out << "in each step\n";
  } else {
    out << forward.chunk << " of " << s.steps << " steps at once\n";
  }
  print_buffers(out, save ? "forward" : "inference", forward, m);
  if (!save) return out.str();
  if (m.isa != std::string_view(backward.isa)) out << "backward by " << backward.isa << "\n";
  print_buffers(out, "backward", plan_of(s, backward, Pass::backward, together), backward);
  return out.str();
}

thread_local long nanoseconds_here;  // that a meeting takes, as a caller of `plan` says
long meeting_here(long) { return nanoseconds_here; }

}  // namespace

std::string plan(int64_t steps, int64_t batch, int64_t inputs, int64_t hidden, int64_t layers,
                 const std::string& fuse, bool save, int64_t directions, int64_t projected,
                 bool even, bool dropout, Dtype dtype, std::optional<int64_t> threads,
                 const std::string& isa, const PrecisionOverride& precision, const std::string& cell,
                 int64_t meeting, bool prepared) {
  check_fuse(fuse);
  const Isa& set = isa.empty() ? current_isa() : isa_of(isa);
  CHECK_VALUE(dtype == Dtype::Float || dtype == Dtype::Double || dtype == Dtype::BFloat16,
              "dtype: got ", dtype, "; expected float32, float64 or bfloat16");
  const long workers = threads.value_or(team_size());
  CHECK_VALUE(workers > 0, "threads: got ", workers, "; expected 1 or more");
  CHECK_VALUE(layers > 0, "layers: got ", layers, "; expected 1 or more");
  Sizes s{};
  s.steps = steps;
  s.batch = batch;
  s.rows = steps * batch;
  s.inputs = inputs;
  s.hidden = hidden;
  s.outputs = projected > 0 ? projected : hidden;
  s.layers = layers;
  s.directions = directions;
  s.projected = projected > 0;
  s.even = even;
  s.dropout = dropout;
  const NamedCell named = cell_of(set, cell, {}, false);
  s.cell = named.cell->shape;
  s.norm = named.options.norm;
  s.narrow = dtype == Dtype::BFloat16;
  s.unit = s.narrow && has_unit(set);
  s.prepared = prepared;
  s.weight_bytes = bytes_of(dtype);
  const int terms = terms_of(dtype, precision);
  const auto machine = [&](bool as_they_lie, Pass pass) {
    const bool wide = s.narrow && (as_they_lie || !set.for_bf16);
    const int worth = as_they_lie ? 0 : terms_worth(terms, pass, batch);
    return with_factors(wide ? Dtype::Float : dtype, worth, set,
                        [&](const auto& kernels) { return machine_of(kernels, workers, meeting_here); });
  };
  nanoseconds_here = meeting;
  const Machine forward = machine(is_short(s), Pass::forward);
  return to_string(s, forward, machine(false, Pass::backward), save, fuse == "layers");
}

// How long a meeting took this thread's teams of so many workers, in ns (threads.h).
int64_t meeting_of(int64_t workers) { return meeting_time(workers); }

// What a worker keeps of panels in its L2 cache, and what of one it reads again (isa/caches.h).
std::vector<int64_t> fetching(bool intel, int64_t l2, int64_t registers) {
  const Fetching found = fetching_of({intel, l2}, registers);
  return {found.kept, found.part, found.rows};
}

// How far ahead a product of few rows fetches prepared weights (isa/prepared.h).
int64_t prepared_ahead(bool intel, int64_t l2, int64_t bytes) {
  return prepared::ahead_of({intel, l2}, bytes);
}

}  // namespace fused_lstm
