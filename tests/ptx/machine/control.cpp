// Branches, exit, barriers of a program, and what lanes of a warp tell one another.
#include <algorithm>
#include <cstring>

#include "instructions.h"

namespace ptx {

void branch(Step& s) {
  const i32 target = s.operand(0).index;
  const u32 rest = s.own().lanes & ~s.lanes;
  if (!rest) {
    s.next = target;
    return;
  }
  s.own() = {s.next, rest};
  s.w.groups.push_back({target, s.lanes});
  s.m.merge(s.w, s.w.groups.size() - 1);
  for (size_t k = 0; k < s.w.groups.size(); k++)
    if (s.w.groups[k].lanes & rest) {
      s.m.merge(s.w, k);
      break;
    }
  s.placed = true;
}

void trap(Step&) { throw Error("trap"); }

void leave(Step& s) {
  Warp& w = s.w;
  w.live &= ~s.lanes;
  const u32 rest = s.own().lanes & ~s.lanes;
  if (rest) {
    s.own().lanes = rest;
    return;
  }
  s.placed = true;
  w.groups.erase(w.groups.begin() + s.group);
  if (w.live) {
    for (Group& g : w.groups)
      if (g.state == State::WAITS_FOR_LANES) g.state = State::RUNS;
    return;
  }
  const auto in_flight = [](const auto& work) { return !work.done; };
  if (std::any_of(w.products.begin(), w.products.end(), in_flight))
    s.m.report("wgmma in flight at exit", s.m.pc, -1, 0, Machine::name(w));
  if (std::any_of(w.copies.begin(), w.copies.end(), in_flight))
    s.m.report("cp.async in flight at exit", s.m.pc, -1, 0, Machine::name(w));
  s.m.make_idle(w);
  for (int id = 0; id < 16; id++) s.m.try_barrier(*w.cta, id);
}

// Operands: the barrier, how many threads it waits for (all).
void barrier(Step& s) {
  const u32 id = s.m.read(s.w, s.operand(0), 0, U32);
  if (id > 15) s.m.fail("no barrier " + std::to_string(id));
  auto& found = s.w.cta->barriers[id];
  const i32 wanted = s.i.groups > 1 ? i32(s.m.read(s.w, s.operand(1), 0, U32)) / LANES : 0;
  if (found.arrived && found.wanted != wanted)
    s.m.fail("bar.sync with another count of threads than others, " + Machine::name(s.w));
  found.wanted = wanted;
  found.arrived |= 1u << s.w.id;
  s.w.effects++;
  s.own().state = State::AT_BARRIER;
  s.placed = true;
  s.m.make_idle(s.w);
  s.m.try_barrier(*s.w.cta, id);
}

void meet(Step&) {}  // bar.warp.sync: that its lanes have met is all

// Modifiers: up, down, bfly, idx. Operands: d[|p], a, b, c: PTX's clamp and segment mask.
void shuffle(Step& s) {
  enum { UP, DOWN, BUTTERFLY, INDEX };
  const u32 *a = s.m.source_32(s.w, s.operand(1)), *b = s.m.source_32(s.w, s.operand(2));
  const u32* c = s.m.source_32(s.w, s.operand(3));
  u32 in[LANES], valid = 0;
  std::memcpy(in, a, sizeof in);
  u32* out = s.m.target_32(s.w, s.operand(0));
  for (int lane = 0; lane < LANES; lane++) {
    const int by = b[lane] & 31, clamp = c[lane] & 31, segment = c[lane] >> 8 & 31;
    const int last = (lane & segment) | (clamp & ~segment), first = lane & segment;
    int from = 0;
    switch (s.i.modifier[0]) {
      case UP: from = lane - by; break;
      case DOWN: from = lane + by; break;
      case BUTTERFLY: from = lane ^ by; break;
      case INDEX: from = first | (by & ~segment); break;
    }
    const bool ok = s.i.modifier[0] == UP ? from >= last : from <= last;
    if (ok) valid |= 1u << lane;
    if (s.lanes >> lane & 1) out[lane] = in[ok ? from : lane];
  }
  if (s.i.size[0] > 1) s.m.set_predicate(s.w, s.operand(0, 1), valid, s.lanes);
}

// Modifiers: ballot, any, all, uni.
void vote(Step& s) {
  enum { BALLOT, ANY, ALL, UNIFORM };
  const u32 yes = s.m.predicate(s.w, s.operand(1)) & s.lanes;
  if (s.i.modifier[0] == BALLOT) {
    u32* out = s.m.target_32(s.w, s.operand(0));
    for (int lane = 0; lane < LANES; lane++)
      if (s.lanes >> lane & 1) out[lane] = yes;
    return;
  }
  const bool all = yes == s.lanes, any = yes != 0;
  const bool found = s.i.modifier[0] == ANY ? any : s.i.modifier[0] == ALL ? all : all || !any;
  s.m.set_predicate(s.w, s.operand(0), found ? ALL_LANES : 0, s.lanes);
}

// Modifiers: add, and, or, xor, min.s32, max.s32, min.u32, max.u32.
void reduce(Step& s) {
  const auto combine = [&](u32 a, u32 b) -> u32 {
    switch (s.i.modifier[0]) {
      case 0: return a + b;
      case 1: return a & b;
      case 2: return a | b;
      case 3: return a ^ b;
      case 4: return std::min(static_cast<i32>(a), static_cast<i32>(b));
      case 5: return std::max(static_cast<i32>(a), static_cast<i32>(b));
      case 6: return std::min(a, b);
      default: return std::max(a, b);
    }
  };
  const u32* in = s.m.source_32(s.w, s.operand(1));
  u32 total = in[std::countr_zero(s.lanes)];
  for (u32 rest = s.lanes & (s.lanes - 1); rest; rest &= rest - 1)
    total = combine(total, in[std::countr_zero(rest)]);
  u32* out = s.m.target_32(s.w, s.operand(0));
  for (int lane = 0; lane < LANES; lane++)
    if (s.lanes >> lane & 1) out[lane] = total;
}

void active_mask(Step& s) {
  u32* out = s.m.target_32(s.w, s.operand(0));
  for (int lane = 0; lane < LANES; lane++)
    if (s.lanes >> lane & 1) out[lane] = s.lanes;
}

}  // namespace ptx
