// A program's shared memory: addresses, and races among its warps, which only barriers order.
#include <algorithm>

#include "machine.h"

namespace ptx {

u64 Machine::shared_offset(const Warp& w, u64 address, int bytes, const char* what) const {
  const u64 base = launch.shared_base, offset = address - base;
  const bool inside = address >= base && offset + bytes <= w.cta->shared.size();
  if (inside && address % bytes == 0) return offset;
  fail(std::string("shared ") + (inside ? "misaligned, " : "out of bounds, ") + what + " of " +
       std::to_string(bytes) + " bytes: " + hex(address) + ", " + name(w));
}

void Machine::note_shared_read(Warp& w, u64 offset, int bytes, bool async_proxy) {
  Cta& c = *w.cta;
  for (int k = 0; k < bytes; k++)
    if (!c.shared_written[offset + k]) {
      const std::string at = "shared +" + std::to_string(offset) + ", ";
      report("uninitialised read", pc, -1, offset, at + name(w));
      break;
    }
  if (launch.races < 2) return;
  const i32 first = c.warps[0]->global_id;
  for (u64 k = offset; k < offset + bytes; k++) {
    SharedCell& cell = c.cells[k];
    if (cell.write_clock) {
      const u8 writer = cell.writer;
      if (writer != w.id && w.shared_clocks[writer] < cell.write_clock)
        race("race: read after write", w, first + writer, cell.write_pc, offset, true);
      // Tensor cores read shared memory past the ordinary path: a fence must lie in between.
      const bool fenced = c.warps[writer]->proxy_fences > cell.proxy_fences;
      if (async_proxy && !fenced && !w.proxy_fence_since_barrier)
        race("store not fenced from wgmma", w, first + writer, cell.write_pc, offset, true);
    }
    bool all_before = true;  // then earlier readers need not be remembered
    for (u32 rest = cell.readers; rest; rest &= rest - 1) {
      const int reader = std::countr_zero(rest);
      all_before &= reader == w.id || w.shared_clocks[reader] >= cell.read_clock;
    }
    if (all_before) cell.readers = 0, cell.read_clock = 0;
    cell.readers |= 1u << w.id;
    cell.read_clock = std::max(cell.read_clock, w.shared_clocks[w.id]);
    cell.read_pc = pc;
  }
}

void Machine::note_shared_write(Warp& w, u64 offset, int bytes, bool same_value) {
  Cta& c = *w.cta;
  std::fill_n(c.shared_written.begin() + offset, bytes, 1);
  if (launch.races < 2) return;
  const i32 first = c.warps[0]->global_id;
  const char* kind =
      same_value ? "race of equal values: write after write" : "race: write after write";
  for (u64 k = offset; k < offset + bytes; k++) {
    SharedCell& cell = c.cells[k];
    if (cell.write_clock && cell.writer != w.id &&
        w.shared_clocks[cell.writer] < cell.write_clock)
      race(kind, w, first + cell.writer, cell.write_pc, offset, true);
    for (u32 rest = cell.readers; rest; rest &= rest - 1) {
      const int reader = std::countr_zero(rest);
      if (reader == w.id || w.shared_clocks[reader] >= cell.read_clock) continue;
      race("race: write after read", w, first + reader, cell.read_pc, offset, true);
      break;
    }
    cell = {w.shared_clocks[w.id], 0, 0, w.proxy_fences, static_cast<u16>(pc), 0,
            static_cast<u8>(w.id)};
  }
}

}  // namespace ptx
