#include "plan.h"

#include "isa/prepared.h"
#include "phases.h"

#include <algorithm>

namespace fused_lstm {
namespace {

constexpr long chunk_bytes = 16 << 20;  // of input product at once, where nothing is saved
constexpr long given_bytes = 128 << 10;  // of x's part of the gates, brought in at once by a head

long divided(long size, long by) { return (size + by - 1) / by; }

// Whether layers rather than a step's units are divided among the workers. A worker then reads all
// weights of a layer at each step, not its part of them, and they must stay in its L2 cache, of 1 MiB
// on a Zen 4 and a Zen 5. Measured there on two cores, forward and backward: 5 to 15 percent faster
// up to 100 units of float32, the same at 128, 5 percent slower at 160 and 200. With a few rows,
// where reading the weights is all there is, dividing those is better. Prepared, on a Zen 4, 32 to 100
// units: an LSTM 5 percent slower to 14 faster, a GRU 6 slower to 40 faster, in the median 10 faster.
bool as_wavefront(const Sizes& s, const Machine& m) {
  const long most = s.batch < 4 ? 128 << 10 : 384 << 10;  // bytes
  const CellShape& cell = s.cell;
  const long weights = cell.x_gates() * s.hidden * (std::max(s.inputs, s.hidden) + s.hidden) * m.bytes;
  const bool possible = cell.in_tiles() && s.even && !s.norm && !s.projected && !s.given &&
                        s.directions == 1 && s.layers % m.threads == 0;
  return possible && m.threads > 1 && weights <= most;
}

// Whether what workers do of a short call before they meet is too small to divide. Of a step: on two cores of
// a Zen 5 a team takes 5 percent longer at half of this, 10 percent less at twice. Lanes that have a worker
// each meet after all steps: on a Zen 4 two threads take 4 to 10 percent longer at two thirds of this, and 25
// less at it.
bool is_small(const Plan& plan, const Sizes& s) {
  const long columns = s.heads * s.cell.x_gates() * s.hidden;
  const long step = s.batch * columns * (s.inputs + s.hidden);
  return plan.each_alone() ? step * s.steps < 3 << 16 : step < 1 << 16;
}

// Whether a call's prepared weights are multiplied by a matrix unit, once they have come into a near cache.
bool by_matrix_unit(const Sizes& s) { return s.prepared && s.unit && s.batch >= 2; }

// Estimates one worker's time for a short call: to read weights at each step, 14 bytes per ns (an
// Emerald Rapids reads 14 to 22), or where rows are many to multiply, at 40 multiply-adds. Its matrix
// unit made 120 to 220 per ns; weights came at 40 to 120 bytes per ns in all steps but the first.
long nanoseconds_of(const Sizes& s) {
  const long weights = s.cell.x_gates() * s.hidden * (s.inputs + s.outputs) * s.lanes();
  if (by_matrix_unit(s)) return std::max(weights * s.weight_bytes / 14, s.rows * weights / 180);
  return std::max(s.steps * weights * s.weight_bytes / 14, s.rows * weights / 40);
}

// Whether a matrix unit makes a call too soon for two workers: they took 1.04 to 1.51 times as long where
// one took 21 to 94 us, and 0.59 to 0.9 where one took 116 to 850 (an Emerald Rapids, bfloat16).
bool is_soon_made(const Sizes& s) { return by_matrix_unit(s) && nanoseconds_of(s) < 100'000; }

// Whether a step is too small to divide. One that takes less than a microsecond always is. A larger one has to
// take three times as long as a meeting of the workers does now, at 48 multiply-adds of float32 per ns: on a
// Zen 4 an LSTM of 64 units and one row took two threads 0.7 times as long as one where their cores shared a
// cache, and 1.4 where they did not, of bfloat16 0.8 and 1.9.
bool is_small_step(const Sizes& s, const Machine& m, long workers) {
  const long products = s.batch * s.cell.x_gates() * s.hidden * std::max(s.inputs, s.outputs);
  const long size = products * m.bytes;
  if (size < 1 << 16) return true;
  return m.meeting && size < 1 << 19 && size / 192 < 3 * m.meeting(workers);
}

// Whether small steps of a call are divided among torch's team, as a layer's are: its meetings are timed. On a
// Zen 4 an LSTM of 15 units and 30 rows took it 0.75 to 0.9 times as long as one thread.
bool is_made_by_team(const Plan& plan, const Sizes& s, const Machine& m) {
  const bool possible = s.prepared && s.weight_bytes == 4 && plan.team > 1 && !plan.each_alone();
  return possible && plan.nanoseconds >= worth_a_wake && !is_small_step(s, m, plan.team);
}

// Returns a step's number of tiles: one more worker would have none, and yet meet the others each step.
// If the input product of all steps is more work than these, it decides instead.
long most_workers(const Plan& plan, const Sizes& s, const Machine& m) {
  const bool by_unit = plan.is_short && !s.prepared;  // else by rows of a tile, too
  const long rows = by_unit ? 1 : divided(s.batch, m.shapes.gates.rows);
  const long units = s.prepared ? prepared::lanes : m.shapes.lanes;  // of a block
  const long tiles = plan.abreast * divided(s.hidden, units) * rows;
  const long most = std::max(tiles, 1L) * std::max(s.inputs / std::max(s.hidden, 1L), 1L);
  const bool divides = plan.is_short || !is_small_step(s, m, std::min(m.threads, most));
  return divides ? most : plan.abreast;
}

// Divides heads, which do not wait for each other: each on one worker; or where there are fewer heads than
// workers each on half of the team, or all in turn on all of it.
void divide_heads(Plan& plan, const Sizes& s, const Machine& m) {
  const long work = s.rows * s.heads * s.cell.x_gates() * s.hidden * s.hidden;
  plan.team = work < 1 << 16 ? 1 : m.threads;
  if (s.heads >= plan.team) {
    plan.abreast = plan.team;
    return;
  }
  plan.abreast = s.heads > 1 && plan.team % 2 == 0 ? 2 : 1;
  const long tiles = divided(s.hidden, m.shapes.lanes) * divided(s.batch, m.shapes.gates.rows);
  plan.team = std::min(plan.team, plan.abreast * std::max(tiles, 1L));
}

// The sums inside a step of `lanes` lanes; each worker has its own.
Buffer totals_of(const Sizes& s, const Plan& plan, const Machine& m, long lanes) {
  const long size = s.cell.inner->totals_size(s.batch, m.shapes.lanes);
  return {size > 0 ? lanes : 0, plan.team, size, true};
}

// Whether prepared weights are of float32 and read in tiles whose sums begin where x's part lies: see Ready::gates.
bool has_tiles(const Sizes& s) {
  const long bytes = s.cell.h_gates() * s.hidden * s.outputs * s.weight_bytes;
  return s.prepared && s.weight_bytes == 4 && s.cell.x_gates() > 1 && s.batch >= prepared::many_rows(bytes);
}

// Decides whether steps make W x too, where their sums begin, given a lane's inputs. For all steps at once
// it is a faster product, and each weight is read once, but what it makes is written and read again. In a
// wavefront the layer below has only just made x. Measured on an Emerald Rapids, forward passes, as shares
// of the time of the other way. In bfloat16, which a matrix unit multiplies far faster than sums are moved:
// 0.33 to 0.97. In float32 on two threads with up to 64 inputs, trained or not: 0.65 to 0.98. In inference
// with near weights and 12 rows or more: 0.62 to 0.98 on two threads, prepared on one 0.84 to 1.00; with far
// ones and few rows it takes up to 1.6. Where rows are half of the inputs: 0.75 to 1.05. Of 16 vector
// registers with few inputs: 0.91 to 0.98. A prepared call of one step: 0.82 to 1.20, in the median 0.98,
// on a Zen 4; of 16 registers and 12 rows or more 0.64 to 1.02, on a Zen 3. Prepared bfloat16 by a matrix unit:
// of one step 0.62 to 1.01, in the median 0.8; of several 0.54 to 0.93, but with far weights and fewer rows up
// to 1.12.
bool makes_input_in_step(const Plan& plan, const Sizes& s, const Machine& m, long inputs, bool save) {
  if (plan.wavefront) return true;
  const bool by_unit = m.shapes.registers == 8 || (by_matrix_unit(s) && (s.steps > 1 || s.batch >= 4));
  if ((plan.is_short && !has_tiles(s) && !by_unit) || !s.cell.in_tiles()) return false;
  if (s.given || s.norm || s.projected || s.resets) return false;
  if (inputs <= 16) return true;
  const long weights = s.cell.x_gates() * s.hidden * (inputs + s.outputs) * (s.prepared ? s.weight_bytes : m.bytes);
  if (!by_unit) {  // vectors
    const bool are_many = m.shapes.registers == 32;
    const bool near = weights <= m.threads * (1280 << 10);
    if (s.steps < 8) return s.prepared && s.steps == 1 && (are_many || near);
    if (m.bytes == m.sum_bytes && near) {
      if (m.threads > 1 && s.batch >= 4 && inputs <= std::min(s.hidden, 64L)) return true;
      if (s.batch >= 12 && !save && (s.prepared || (are_many && m.threads > 1))) return true;
    }
    return inputs * m.bytes <= (are_many ? 8 : 2) * s.batch;
  }
  const bool near = weights <= m.threads * (1536 << 10);
  const long most = (near ? 32 : 16) * s.batch;
  return s.prepared ? s.steps == 1 || inputs <= most : inputs <= std::min(most, 4 * s.rows);
}

// Returns the most inputs of a lane whose steps make W x too, or 0.
long inputs_in_step(const Plan& plan, const Sizes& s) {
  const long first = plan.input_in_step ? s.inputs : 0;
  return plan.input_in_step_above ? std::max(first, s.width()) : first;
}

void plan_forward(Plan& plan, const Sizes& s, const Machine& m, bool save) {
  const long lanes = s.lanes(), width = s.width();
  const CellShape& cell = s.cell;
  const long gates = cell.x_gates() * s.hidden;
  const long step_bytes = std::max(s.batch * gates * m.sum_bytes, 1L);
  const long fit = std::clamp((s.given ? given_bytes : chunk_bytes) / step_bytes, 1L, s.steps);
  const long columns = std::max(cell.saved, 1L);  // of what is kept of a step; of an RNN it is y
  const bool kept = save && s.norm;  // the input's part itself, behind c
  plan.in_place = save && !s.norm && m.bytes == m.sum_bytes && columns >= cell.x_gates() && !cell.inner;
  plan.input_in_step = makes_input_in_step(plan, s, m, s.inputs, save);
  plan.input_in_step_above = s.layers > 1 && makes_input_in_step(plan, s, m, width, save);
  const bool all_in_steps = plan.input_in_step && (s.layers == 1 || plan.input_in_step_above);
  const bool at_once = (plan.in_place && !s.given) || (plan.is_short && !s.prepared) || kept;
  plan.chunk = at_once || all_in_steps ? s.steps : fit;
  // If nothing is kept, a layer of one lane writes its output over its input, which it has used. Layers
  // of two lanes, or whose steps read x, take turns with two buffers.
  const long others = plan.input_in_step_above || (s.directions > 1 && s.layers > 1);
  const bool all = save || plan.wavefront || plan.is_short;
  plan.h = {all ? s.layers - 1 : others, s.rows, width};
  if (save) {
    plan.c = {s.planes() * lanes, s.rows, s.state_columns(), true};
    plan.gates = {cell.saved ? lanes : 0, s.rows, s.saved_columns()};
  } else if (s.cell.saved > 0 && !plan.is_short) {  // which leaves it in c_n
    plan.c = {plan.wavefront ? s.layers : s.abreast(), s.batch, s.state_columns(), true};
  }
  if (cell.inner && !save) plan.gates = {plan.abreast, s.batch, s.saved_columns()};
  if (cell.inner) plan.totals = totals_of(s, plan, m, plan.abreast);
  if (cell.inner && !save) plan.numbers = {plan.abreast, s.batch, cell.inner->numbers, true};
  if (s.norm && !save) plan.by_h = {plan.abreast, s.batch, cell.h_gates() * s.hidden, true};
  const bool by_chunks = !plan.in_place && !kept && !all_in_steps;
  if (by_chunks || (inputs_in_step(plan, s) > 0 && cell.apart())) {  // n of a step has x's part apart
    const long rows = by_chunks ? std::min(plan.chunk * s.batch, s.rows) : s.batch;
    const bool each = plan.is_short && s.given;  // whose phases are those of all heads
    plan.input_part = {plan.wavefront ? s.layers : each ? s.heads : plan.abreast, rows, gates, true};
  }
  if (!cell.in_tiles()) plan.product = {plan.abreast, s.batch, cell.h_gates() * s.hidden, true};
  if (s.projected) plan.unprojected = {plan.abreast, s.batch, s.hidden};
  if (plan.is_short) return;
  const long rows = s.given || all_in_steps ? 0 : std::min(plan.chunk * s.batch, s.rows);
  const long workers = plan.wavefront || plan.each_alone() ? 1 : plan.team;  // of a lane
  const long depth = std::max(s.outputs, s.inner.widest);  // of a step's factors
  const long inputs = inputs_in_step(plan, s);
  const long ready = std::max(m.ready_size(rows, s.input().depth),
                              m.ready_size(workers * s.batch, depth) +
                                  (inputs > 0 ? m.ready_size(workers * s.batch, inputs) : 0));
  if (ready > 0) plan.ready = {plan.wavefront ? s.layers : plan.abreast, 1, ready};
}

void plan_backward(Plan& plan, const Sizes& s, const Machine& m) {
  const CellShape& cell = s.cell;
  // Lanes of a layer keep what their weights' gradients are made of, but each head makes its own.
  const long at_once = plan.wavefront ? s.layers : s.given ? plan.abreast : s.directions;
  const long dgates = m.blocks_size(cell.gradients(), s.hidden, s.rows);
  plan.dgates = {s.norm ? 2 * at_once : at_once, 1, dgates};
  if (cell.inner) {
    long size = 0;
    for (long k = 0; k < cell.inner->count; ++k) {
      if (!cell.inner->is_product(k)) continue;
      size += m.blocks_size(cell.inner->columns[k], s.inner.units[k], s.rows);
    }
    plan.totals = totals_of(s, plan, m, s.directions);
    plan.by_sums = {s.directions, plan.team, s.batch * cell.inner->sums, true};
    plan.by_inner = {s.directions, 1, size};
    plan.arrived = {s.directions, s.batch, cell.inner->count * s.inner.widest, true};
  }
  if (s.projected) plan.dh = {s.directions, 1, m.blocks_size(1, s.outputs, s.rows)};
  if (m.bytes < m.sum_bytes && s.rows > m.shapes.rows_at_once) {
    const long projection = s.projected ? s.outputs * s.hidden : 0;
    long inner = 0;
    for (long k = 0; k < cell.phases_inside(); ++k) {
      if (!cell.inner->is_product(k)) continue;
      inner += cell.inner->columns[k] * s.inner.units[k] * s.inner.depth[k];
    }
    const long of_ih = cell.x_gates() * s.hidden * s.input().depth;
    const long of_hh = cell.h_gates() * s.hidden * s.outputs;
    plan.partial = {at_once, 1, of_ih + of_hh + projection + inner, true};
  }
  if (s.samples > 0) {
    const long rows = s.steps * (s.batch / s.samples);
    const long size = m.blocks_size(cell.x_gates(), s.hidden, rows);
    plan.sampled = {m.threads, 1, std::max(size, m.blocks_size(1, s.outputs, rows))};
  }
  // If layers take turns, a layer writes its dx over its dy, which it has used.
  if (s.layers > 1) plan.between = {plan.wavefront ? s.layers - 1 : 1, s.rows, s.width(), true};
}

}  // namespace

// To pack weights costs about as much as to read them three times, to widen bfloat16 first far
// more; but packed they are faster to multiply with. Measured on a Zen 5 (one thread and two, H =
// 64, 200, 650, 1500, every instruction set): up to 4 steps this gains everywhere, up to 2 to 5
// times; up to 16 where a step is long but its weights come from a cache. With 32 rows it loses as
// often as it gains. A matrix unit is the faster one from 9 rows on, up to 1.7 times (an Emerald Rapids,
// one thread, H = 64, 192, 384, 650).
bool is_short(const Sizes& s) {
  const bool cached = s.hidden >= 256 && (s.narrow || s.hidden <= 1024);
  const long most = s.unit ? 8 : 16;
  const bool tiles = s.norm ? s.cell.in_tiles() : s.cell.fits_tiles();
  return tiles && s.rows <= most && (s.steps <= 4 || cached);
}

// Measured on an Emerald Rapids (one thread; H = 200, 650, 1500; its AMX undisturbed by another hyperthread):
// two terms are 1.18 to 1.52 times as fast as float32 forwards with 20 rows and with 64, 0.82 to 0.90
// times with 4, and slower backwards, where both factors are split tile by tile. One term is faster.
int terms_worth(int terms, Pass pass, long batch) {
  return terms == 2 && (pass == Pass::backward || batch < 16) ? 0 : terms;
}

Plan plan_of(const Sizes& s, const Machine& machine, Pass pass, bool together) {
  Machine m = machine;
  Plan plan{};
  plan.is_short = pass != Pass::backward && (s.prepared || is_short(s));
  plan.nanoseconds = nanoseconds_of(s);
  plan.wavefront = (!plan.is_short || has_tiles(s)) && together && as_wavefront(s, m);
  plan.abreast = together && s.directions == 2 && m.threads % 2 == 0 ? 2 : 1;
  if (!plan.wavefront) m.threads = std::min(m.threads, most_workers(plan, s, m));
  plan.team = m.threads;
  if (s.given) divide_heads(plan, s, machine);
  if (plan.is_short) {
    const bool small = is_small(plan, s);
    plan.by_team = small && is_made_by_team(plan, s, m);
    plan.alone = (small && !plan.by_team) || is_soon_made(s);
    if (plan.alone) plan.wavefront = false;
  }
  plan.chunk = s.steps;
  if (pass == Pass::backward) plan_backward(plan, s, m);
  if (pass != Pass::backward) plan_forward(plan, s, m, pass == Pass::forward);
  const long above = s.dropout ? s.layers - 1 : 0;
  plan.dropped = {plan.wavefront ? above : std::min(above, 1L), s.rows, s.width()};
  if (plan.is_short) return plan;
  if (plan.wavefront) {
    plan.packed = {s.layers, 1, m.wavefront_size(s.input())};
  } else {
    long size = m.recurrent_size(s.recurrent(), inputs_in_step(plan, s), s.projected);
    for (long k = 0; k < s.cell.phases_inside(); ++k) {
      if (!s.cell.inner->is_product(k)) continue;
      size += m.recurrent_size({s.cell.inner->columns[k], s.inner.units[k], s.inner.depth[k]}, 0, false);
    }
    plan.recurrent = {plan.abreast, 1, size};
  }
  const bool unused = plan.wavefront && pass != Pass::backward;
  plan.panels = {unused ? 0 : plan.team, 1, m.shapes.panel_size};
  return plan;
}

}  // namespace fused_lstm
