// cp.async: copies from global to shared memory that end when they like, before a wait.
#include <algorithm>
#include <cstring>

#include "instructions.h"

namespace ptx {

// Modifiers: bytes, whether past L1. Operands: shared, global, bytes, [bytes that are read].
// Until it is done, what it writes is uninitialised.
void copy(Step& s) {
  Machine& m = s.m;
  Copy made{m.pc, s.lanes, s.i.modifier[0], s.i.modifier[1] != 0};
  s.w.effects++;
  for (int lane = 0; lane < LANES; lane++) {
    if (!(s.lanes >> lane & 1)) continue;
    made.to[lane] = static_cast<u32>(m.address(s.w, s.operand(0), lane));
    made.from[lane] = m.address(s.w, s.operand(1), lane);
    made.bytes[lane] = s.i.groups > 3 ? i32(m.read(s.w, s.operand(3), lane, U32)) : made.size;
    if (made.bytes[lane] < 0 || made.bytes[lane] > made.size)
      m.fail("cp.async reads " + std::to_string(made.bytes[lane]) + " bytes");
    const u64 offset = m.shared_offset(s.w, made.to[lane], made.size, "cp.async");
    if (!m.launch.lazy) continue;
    m.note_shared_write(s.w, offset, made.size);
    std::fill_n(s.w.cta->shared.begin() + offset, made.size, 0xff);
    std::fill_n(s.w.cta->shared_written.begin() + offset, made.size, 0);
  }
  s.w.copies.push_back(made);
  if (!m.launch.lazy) m.finish(s.w, s.w.copies.back());
}

void commit_copies(Step& s) {
  for (Copy& copy : s.w.copies)
    if (copy.batch < 0) copy.batch = s.w.copy_batch;
  s.w.copy_batch++;
}

// Modifiers: how many of the last commit groups may stay in flight; -1: no copy at all.
void wait_for_copies(Step& s) {
  const i32 left = s.i.modifier[0];
  for (Copy& copy : s.w.copies)
    if (left < 0 || (copy.batch >= 0 && copy.batch < s.w.copy_batch - left))
      s.m.finish(s.w, copy);
  std::erase_if(s.w.copies, [&](const Copy& c) { return c.done && (left < 0 || c.batch >= 0); });
}

void Machine::finish(Warp& w, Copy& copy) {
  if (copy.done) return;
  copy.done = true;
  const i32 now = std::exchange(pc, copy.pc);
  for (int lane = 0; lane < LANES; lane++) {
    if (!(copy.lanes >> lane & 1)) continue;
    u8 buffer[16] = {};
    const int bytes = copy.bytes[lane];
    if (bytes) {
      check_global(w, copy.from[lane], bytes == copy.size ? bytes : 1, "cp.async");
      check_written(w, copy.from[lane], bytes);
      load_global(w, copy.from[lane], bytes, buffer, copy.bypass);
      note_global_read(w, copy.from[lane], bytes, false);
    }
    const u64 offset = shared_offset(w, copy.to[lane], copy.size, "cp.async");
    std::memcpy(w.cta->shared.data() + offset, buffer, copy.size);
    note_shared_write(w, offset, copy.size);
  }
  pc = now;
}

// A little of what is in flight, in order.
void Machine::finish_some(Warp& w) {
  const auto in_flight = [](const auto& work) { return !work.done; };
  const auto product = std::find_if(w.products.begin(), w.products.end(), in_flight);
  if (product != w.products.end()) finish(w, *product);
  const auto copy = std::find_if(w.copies.begin(), w.copies.end(), in_flight);
  if (copy != w.copies.end() && random.chance(500'000)) finish(w, *copy);
}

}  // namespace ptx
