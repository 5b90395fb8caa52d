// Who runs next: the draw of a warp and of a group of its lanes, barriers, polls, deadlocks.
#include <algorithm>
#include <cstring>
#include <ctime>

#include "machine.h"

namespace ptx {

Machine::Machine(const Launch& launch, Code code, Global global, Parameters parameters,
                 u64* executed)
    : launch(launch), code(code), global(global), parameters(parameters), executed(executed),
      random{launch.seed * 0x9e3779b97f4a7c15ull + 1} {
  for (i32 k = 0; k < code.n_constants; k++) {
    constants_32_.insert(constants_32_.end(), LANES, static_cast<u32>(code.constants[k]));
    constants_64_.insert(constants_64_.end(), LANES, code.constants[k]);
  }
}

// --- set up ---

void Machine::set_up() {
  const size_t n_ctas = size_t(launch.grid[0]) * launch.grid[1] * launch.grid[2];
  const size_t n = n_ctas * launch.warps;
  if (launch.warps > LANES) throw Error("more than 32 warps a program");
  if (n > 0xffff || code.count > 0xffff) throw Error("too many warps or instructions");
  registers_32_.assign(n * launch.registers_32 * LANES, 0xdeadbeef);
  registers_64_.assign(n * launch.registers_64 * LANES, 0xdeadbeefdeadbeefull);
  predicates_.assign(n * launch.predicates, 0);
  clocks_.assign(n * n, 0);
  if (launch.races) cells_.resize(global.size / 2 + 8);
  for (i32 k = 0; k < code.count; k++)
    has_wgmma |= std::strcmp(TABLE[code.instructions[k].op].names, "wgmma.mma_async") == 0;
  ctas.resize(n_ctas);
  warps.resize(n);
  for (i32 k = 0; k < static_cast<i32>(n_ctas); k++) {
    Cta& c = ctas[k];
    c.id = k;
    c.x = k % launch.grid[0];
    c.y = k / launch.grid[0] % launch.grid[1];
    c.z = k / launch.grid[0] / launch.grid[1];
    c.shared.assign(launch.shared_bytes, 0xff);
    c.shared_written.assign(launch.shared_bytes, 0);
    c.cells.resize(launch.shared_bytes);
    for (i32 id = 0; id < launch.warps; id++) {
      const i32 global_id = k * launch.warps + id;
      set_up(warps[global_id], c, id, global_id);
    }
  }
}

void Machine::set_up(Warp& w, Cta& c, i32 id, i32 global_id) {
  w.cta = &c, w.id = id, w.global_id = global_id;
  c.warps.push_back(&w);
  w.registers_32 = registers_32_.data() + size_t(global_id) * launch.registers_32 * LANES;
  w.registers_64 = registers_64_.data() + size_t(global_id) * launch.registers_64 * LANES;
  w.predicates = predicates_.data() + size_t(global_id) * launch.predicates;
  w.clocks = clocks_.data() + size_t(global_id) * warps.size();
  w.clocks[global_id] = 1;
  w.shared_clocks[id] = 1;
  w.groups.push_back({0, ALL_LANES});
  if (has_wgmma) w.written_at.assign(launch.registers_32, 0);
  w.local.assign(size_t(launch.local_bytes) * LANES, 0xff);
  w.local_written.assign(w.local.size(), 0);
  const i32 special[SPECIAL_REGISTERS] = {
      0, 0, 0, c.x, c.y, c.z, launch.warps * LANES, 1, 1,
      launch.grid[0], launch.grid[1], launch.grid[2], 0, id};
  for (int s = 0; s < SPECIAL_REGISTERS; s++)
    for (int lane = 0; lane < LANES; lane++)
      w.registers_32[s * LANES + lane] =
          s == TID_X ? id * LANES + lane : s == LANEID ? lane : special[s];
  make_runnable(w);
}

// --- the run ---

void Machine::run() {
  const std::clock_t start = std::clock();
  set_up();
  u64 redraw = 0;
  while (true) {
    if (runnable_.empty()) {
      if (std::none_of(warps.begin(), warps.end(), [](const Warp& w) { return w.live; })) break;
      if (drain_all() && !runnable_.empty()) continue;
      deadlock();
    }
    if (launch.slow && result.instructions >= redraw) {
      slow_some_down();
      redraw = result.instructions + 200 + random.below(20000);
    }
    Warp& w = draw();
    i32 burst = launch.burst <= 1 ? 1 : 1 + random.below(2 * launch.burst);
    while (burst-- > 0 && w.run_index >= 0) step(w);
    if (launch.delay && random.chance(launch.drain_ppm)) {
      Cta& c = ctas[random.below(ctas.size())];
      if (!c.delayed_cells.empty())
        drain(c, c.delayed_cells[random.below(c.delayed_cells.size())]);
    }
    if (result.instructions > launch.max_instructions)
      throw Error("more than " + std::to_string(launch.max_instructions) + " instructions");
  }
  drain_all();
  result.seconds = double(std::clock() - start) / CLOCKS_PER_SEC;
}

// For a while nobody is slow, or a third of the programs are, or a third of all warps.
void Machine::slow_some_down() {
  const u32 kind = random.below(4);
  for (Cta& c : ctas) {
    const bool slow_cta = kind == 1 && random.below(3) == 0;
    for (Warp* w : c.warps)
      w->weight = slow_cta || (kind == 2 && random.below(3) == 0) ? 5 : 1000;
  }
}

Warp& Machine::draw() {
  Warp* w = nullptr;
  for (int attempt = 0; attempt < 64; attempt++) {
    w = &warps[runnable_[random.below(runnable_.size())]];
    if (!launch.slow || w->weight >= 1000 || random.below(1000) < w->weight) break;
  }
  return *w;
}

// One instruction of one group of w's lanes.
void Machine::step(Warp& w) {
  size_t group;
  if (!pick_group(w, group)) return make_idle(w);
  const Instruction& i = code.instructions[pc = w.groups[group].pc];
  if (!ready(w, i, group)) return;
  if (launch.lazy == 1 && (!w.products.empty() || !w.copies.empty()) && random.chance(200'000))
    finish_some(w);
  u32 lanes = w.groups[group].lanes;
  if (i.guard >= 0) lanes &= i.guard_negated ? ~w.predicates[i.guard] : w.predicates[i.guard];
  result.instructions++, w.count++, executed[pc]++;
  Step s{*this, w, i, lanes, group, pc + 1};
  if (lanes) {
    if (has_wgmma) check_products_in_flight(w, i);
    TABLE[i.op].execute(s);
    if (s.placed) return;
  }
  w.groups[group].pc = s.next;
  if (w.groups.size() == 1) return;
  for (Group& g : w.groups)
    if (g.state == State::WAITS_FOR_LANES && g.pc == s.next) g.state = State::RUNS;
  merge(w, group);
}

// Mostly the group that is furthest behind, so that lanes meet again.
bool Machine::pick_group(Warp& w, size_t& group) {
  if (w.groups.size() == 1) {
    group = 0;
    return w.groups[0].state == State::RUNS;
  }
  std::vector<size_t> running;
  for (size_t k = 0; k < w.groups.size(); k++)
    if (w.groups[k].state == State::RUNS) running.push_back(k);
  if (running.empty()) return false;
  group = *std::min_element(running.begin(), running.end(), [&](size_t a, size_t b) {
    return w.groups[a].pc < w.groups[b].pc;
  });
  if (running.size() > 1 && random.chance(launch.other_ppm))
    group = running[random.below(running.size())];
  return true;
}

// Whether the group may execute i now; it may be split first.
bool Machine::ready(Warp& w, const Instruction& i, size_t& group) {
  if (i.aligned) {
    if (w.groups[group].lanes == w.live) return true;
    w.groups[group].state = State::WAITS_FOR_LANES;
    const bool all = std::all_of(w.groups.begin(), w.groups.end(), [](const Group& g) {
      return g.state == State::WAITS_FOR_LANES;
    });
    if (all) fail("lanes of a warp wait at different .aligned instructions, " + name(w));
    return false;
  }
  if (launch.split_ppm && random.chance(launch.split_ppm)) {
    const u32 lanes = w.groups[group].lanes, part = lanes & static_cast<u32>(random.next());
    if (part && part != lanes) {
      w.groups[group].lanes = lanes & ~part;
      w.groups.push_back(w.groups[group]);
      w.groups.back().lanes = part;
      group = w.groups.size() - 1;
      result.splits++;
    }
  }
  return true;
}

void Machine::merge(Warp& w, size_t group) {
  Group& moved = w.groups[group];
  for (size_t k = 0; k < w.groups.size(); k++) {
    Group& g = w.groups[k];
    const bool waits = g.state == State::SLEEPS || g.state == State::AT_BARRIER;
    if (k == group || g.pc != moved.pc || waits || moved.state == State::SLEEPS) continue;
    g.lanes |= moved.lanes;
    g.state = State::RUNS;
    g.poll = {};
    w.groups.erase(w.groups.begin() + group);
    return;
  }
}

void Machine::make_runnable(Warp& w) {
  if (w.run_index >= 0) return;
  w.run_index = static_cast<i32>(runnable_.size());
  runnable_.push_back(w.global_id);
}

void Machine::make_idle(Warp& w) {
  if (w.run_index < 0) return;
  const i32 last = runnable_.back();
  runnable_[w.run_index] = last;
  warps[last].run_index = w.run_index;
  runnable_.pop_back();
  w.run_index = -1;
}

// --- barriers and polls ---

void Machine::try_barrier(Cta& c, i32 id) {
  auto& barrier = c.barriers[id];
  u32 live = 0;
  for (const Warp* w : c.warps)
    if (w->live) live |= 1u << w->id;
  const u32 arrived = barrier.arrived;
  const bool complete = barrier.wanted ? std::popcount(arrived) >= barrier.wanted
                                       : (arrived & live) == live;
  if (!arrived || !complete) return;
  std::vector<u32> clocks(warps.size(), 0);
  u32 shared[LANES] = {};
  const auto here = [&](const Warp* w) { return arrived >> w->id & 1; };
  for (const Warp* w : c.warps) {
    if (!here(w)) continue;
    join(clocks.data(), w->clocks);
    for (int k = 0; k < LANES; k++) shared[k] = std::max(shared[k], w->shared_clocks[k]);
  }
  for (Warp* w : c.warps) {
    if (!here(w)) continue;
    std::copy(clocks.begin(), clocks.end(), w->clocks);
    std::copy(std::begin(shared), std::end(shared), w->shared_clocks);
    tick(*w);
    w->shared_clocks[w->id]++;
    w->proxy_fence_since_barrier = false;
    for (Group& g : w->groups)
      if (g.state == State::AT_BARRIER) g.state = State::RUNS, g.pc++;
    make_runnable(*w);
  }
  barrier = {};
  result.barriers++;
}

// A poll that saw nothing new sleeps until somebody writes to its word.
void Machine::sleep(Warp& w, Group& g, u64 address, i32 next) {
  result.sleeps++;
  g.state = State::SLEEPS;
  g.poll = {};
  sleepers_.emplace(address >> 2, std::pair{w.global_id, next});
  const bool runs = std::any_of(w.groups.begin(), w.groups.end(),
                                [](const Group& other) { return other.state == State::RUNS; });
  if (!runs) make_idle(w);
}

void Machine::wake(u64 address) {
  if (sleepers_.empty()) return;
  const auto [begin, end] = sleepers_.equal_range(address >> 2);
  for (auto sleeper = begin; sleeper != end; ++sleeper) {
    Warp& w = warps[sleeper->second.first];
    for (Group& g : w.groups)
      if (g.state == State::SLEEPS && g.pc == sleeper->second.second) {
        g.state = State::RUNS;
        make_runnable(w);
      }
  }
  sleepers_.erase(begin, end);
}

void Machine::deadlock() const {
  constexpr size_t SHOWN = 64;
  std::string text = "deadlock:";
  size_t waiting = 0;
  for (const Warp& w : warps)
    for (const Group& g : w.groups) {
      if (++waiting > SHOWN) continue;
      const char* how = g.state == State::AT_BARRIER        ? " at a barrier"
                        : g.state == State::SLEEPS          ? " polls"
                        : g.state == State::WAITS_FOR_LANES ? " waits for its other lanes"
                                                            : "";
      text += " [" + name(w) + " pc " + std::to_string(g.pc) + how + "]";
    }
  if (waiting > SHOWN) text += " and " + std::to_string(waiting - SHOWN) + " more";
  throw Error(text);
}

}  // namespace ptx
