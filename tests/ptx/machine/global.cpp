// Global memory: addresses, races by vector clocks, an L1 that keeps old lines, late stores.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace ptx {

// --- addresses ---

void Machine::check_global(const Warp& w, u64 address, int bytes, const char* what) const {
  const u64 at = address - global.base;
  const bool inside = address >= global.base && at + bytes <= global.size && global.written[at] &&
                      global.written[at + bytes - 1];
  if (inside && address % bytes == 0) return;
  fail(std::string("global ") + (inside ? "misaligned, " : "out of bounds, ") + what + " of " +
       std::to_string(bytes) + " bytes: " + hex(address) + ", " + name(w));
}

void Machine::check_written(const Warp& w, u64 address, int bytes) {
  const u8* written = global.written + (address - global.base);
  for (int k = 0; k < bytes; k++)
    if (written[k] != 2) {
      report("uninitialised read", pc, -1, address, "global " + hex(address) + ", " + name(w));
      return;
    }
}

// --- races ---

void Machine::race(std::string kind, const Warp& w, i32 other, i32 other_pc, u64 address,
                   bool shared) {
  const Warp& before = warps[other];
  if (shared) kind = "shared " + kind;
  report(kind.c_str(), pc, other_pc, address,
         (shared ? "shared " : "global ") + hex(address) + ", " + name(w) + ", before it " +
             name(before));
}

void Machine::note_global_read(Warp& w, u64 address, int bytes, bool strong) {
  if (!launch.races) return;
  const u64 offset = address - global.base;
  const u16 me = w.global_id, at = pc;
  const u32 now = w.clocks[me];
  for (u64 c = offset / 2, end = (offset + bytes + 1) / 2; c < end; c++) {
    GlobalCell& cell = cells_[c];
    if (cell.write_clock && cell.writer != me && w.clocks[cell.writer] < cell.write_clock &&
        !(strong && cell.strong_write))
      race("race: read after write", w, cell.writer, cell.write_pc, c * 2 + global.base, false);
    const bool mine = cell.read_clock && cell.reader == me;
    const bool first_is_over = cell.others < 0 && w.clocks[cell.reader] >= cell.read_clock;
    if (mine || !cell.read_clock || first_is_over) {
      cell.read_clock = now, cell.reader = me, cell.read_pc = at, cell.strong_read = strong;
      continue;
    }
    if (cell.others < 0) {
      cell.others = static_cast<i32>(readers_.size());
      readers_.emplace_back();
    }
    auto& others = readers_[cell.others];
    auto found = others.begin();
    while (found != others.end() && found->warp != me) ++found;
    const GlobalReader reader{now, me, at, strong};
    if (found == others.end()) others.push_back(reader);
    else *found = reader;
  }
}

void Machine::check_readers(Warp& w, GlobalCell& cell, u64 at, bool strong) {
  const auto check = [&](u16 reader, u32 clock, u16 read_pc, bool strong_read) {
    const bool found =
        reader != w.global_id && w.clocks[reader] < clock && !(strong && strong_read);
    if (found) race("race: write after read", w, reader, read_pc, at, false);
    return found;
  };
  if (cell.read_clock) check(cell.reader, cell.read_clock, cell.read_pc, cell.strong_read);
  cell.read_clock = 0;
  if (cell.others < 0) return;
  for (const GlobalReader& r : readers_[cell.others])
    if (check(r.warp, r.clock, r.pc, r.strong)) break;
  std::vector<GlobalReader>().swap(readers_[cell.others]);
  cell.others = -1;
}

void Machine::note_global_write(Warp& w, u64 address, int bytes, bool strong, bool same_value) {
  if (!launch.races) return;
  const u64 offset = address - global.base;
  const char* kind =
      same_value ? "race of equal values: write after write" : "race: write after write";
  for (u64 c = offset / 2, end = (offset + bytes + 1) / 2; c < end; c++) {
    GlobalCell& cell = cells_[c];
    if (cell.write_clock && cell.writer != w.global_id &&
        w.clocks[cell.writer] < cell.write_clock && !(strong && cell.strong_write))
      race(kind, w, cell.writer, cell.write_pc, c * 2 + global.base, false);
    check_readers(w, cell, c * 2 + global.base, strong);
    cell.write_clock = w.clocks[w.global_id], cell.writer = w.global_id;
    cell.write_pc = pc, cell.strong_write = strong;
  }
}

// --- values ---

void Machine::load_global(Warp& w, u64 address, int bytes, u8* out, bool bypass) {
  const u64 offset = address - global.base;
  Cta& c = *w.cta;
  const auto overlay = [&](u8* to, u64 from, int n) {  // a program sees its own stores
    for (int k = 0; k + 1 < n + (n == 1); k += 2) {
      const auto found = c.delayed.find((from + k) / 2);
      if (found != c.delayed.end()) std::memcpy(to + k, &found->second.value, n == 1 ? 1 : 2);
    }
  };
  if (!launch.l1 || bypass) {
    std::memcpy(out, global.bytes + offset, bytes);
  } else {
    const u64 line = offset / LINE;
    auto found = c.l1.find(line);
    if (found == c.l1.end()) {
      std::array<u8, LINE> data;
      std::memcpy(data.data(), global.bytes + line * LINE, LINE);
      if (!c.delayed.empty()) overlay(data.data(), line * LINE, LINE);
      found = c.l1.emplace(line, data).first;
    }
    std::memcpy(out, found->second.data() + offset % LINE, bytes);
    if (std::memcmp(out, global.bytes + offset, bytes)) result.stale_loads++;
    if (random.chance(launch.evict_ppm)) c.l1.erase(found);
  }
  if (!c.delayed.empty()) overlay(out, offset, bytes);
}

void Machine::store_global(Warp& w, u64 address, int bytes, const u8* in, bool strong) {
  const u64 offset = address - global.base;
  Cta& c = *w.cta;
  const auto line = c.l1.find(offset / LINE);
  if (line != c.l1.end()) std::memcpy(line->second.data() + offset % LINE, in, bytes);
  std::memset(global.written + offset, 2, bytes);
  const bool late = launch.delay && !strong && bytes >= 2;
  for (int k = 0; launch.delay && k < bytes; k += 2) {
    const u64 cell = (offset + k) / 2;
    drain(c, cell);
    if (!late) continue;
    u16 value;
    std::memcpy(&value, in + k, 2);
    c.delayed[cell] = {value, static_cast<u16>(w.global_id), w.clocks[w.global_id],
                       static_cast<i32>(c.delayed_cells.size())};
    c.delayed_cells.push_back(cell);
    result.delayed_stores++;
  }
  if (late) return;
  std::memcpy(global.bytes + offset, in, bytes);
  wake(address);
}

void Machine::drain(Cta& c, u64 cell) {
  const auto found = c.delayed.find(cell);
  if (found == c.delayed.end()) return;
  std::memcpy(global.bytes + cell * 2, &found->second.value, 2);
  const i32 index = found->second.index;
  c.delayed_cells[index] = c.delayed_cells.back();
  c.delayed[c.delayed_cells[index]].index = index;
  c.delayed_cells.pop_back();
  c.delayed.erase(cell);
  wake(cell * 2 + global.base);
}

// Every program's stores that happened before `clocks` become visible to all.
void Machine::drain_before(const u32* clocks) {
  if (!launch.delay) return;
  for (Cta& c : ctas)
    for (size_t k = 0; k < c.delayed_cells.size();) {
      const u64 cell = c.delayed_cells[k];
      const auto& store = c.delayed[cell];
      if (store.clock <= clocks[store.warp]) drain(c, cell);
      else k++;
    }
}

bool Machine::drain_all() {
  bool any = false;
  for (Cta& c : ctas)
    for (; !c.delayed_cells.empty(); any = true) drain(c, c.delayed_cells.back());
  return any;
}

// --- clocks ---

void Machine::join(u32* into, const u32* other) const {
  for (size_t k = 0; k < warps.size(); k++) into[k] = std::max(into[k], other[k]);
}

void Machine::publish(u64 word, const u32* clocks) {
  auto& found = released[word];
  if (found.empty()) found.assign(warps.size(), 0);
  join(found.data(), clocks);
}

void Machine::release(u64 word, const u32* clocks) {
  drain_before(clocks);
  publish(word, clocks);
}

void Machine::acquire(Warp& w, u64 word) {
  const auto found = released.find(word);
  if (found != released.end()) join(w.clocks, found->second.data());
  w.cta->l1.clear();
}

// A relaxed load orders nothing until a fence follows it.
void Machine::note_relaxed_load(Warp& w, u64 word) {
  const auto found = released.find(word);
  if (found == released.end()) return;
  if (w.seen_by_relaxed.empty()) w.seen_by_relaxed.assign(warps.size(), 0);
  join(w.seen_by_relaxed.data(), found->second.data());
}

void Machine::fence(Warp& w) {
  w.fenced.assign(w.clocks, w.clocks + warps.size());
  tick(w);
  if (!w.seen_by_relaxed.empty()) join(w.clocks, w.seen_by_relaxed.data());
  drain_before(w.fenced.data());
  w.cta->l1.clear();
}

}  // namespace ptx
