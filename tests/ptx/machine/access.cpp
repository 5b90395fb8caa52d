// ld, st, atom and red, fences.
#include <algorithm>
#include <cstring>

#include "instructions.h"

namespace ptx {

namespace {

// Modifiers of ld and st.
struct Access {
  i32 space, bytes, sign, elements, semantics, scope;
  explicit Access(const Instruction& i)
      : space(i.modifier[0]), bytes(i.modifier[1]), sign(i.modifier[2]), elements(i.modifier[3]),
        semantics(i.modifier[4]), scope(i.modifier[5]) {}
  int total() const { return bytes * elements; }
  bool has(i32 semantic) const { return semantics & semantic; }
};

u64 word_of(u64 address) { return address >> 2 << 2; }

// A lane's own memory: address 0 is its first byte.
u64 local_offset(Step& s, u64 address, int bytes, int lane) {
  const u64 size = s.m.launch.local_bytes;
  if (address + bytes > size || address % bytes)
    s.m.fail("local memory has " + std::to_string(size) + " bytes, access to " +
             std::to_string(bytes) + " at " + hex(address) + ", " + Machine::name(s.w));
  return lane * size + address;
}

void load_local(Step& s, u64 address, int bytes, int lane, u8* out) {
  const u64 at = local_offset(s, address, bytes, lane);
  const auto written = s.w.local_written.begin() + at;
  if (!std::all_of(written, written + bytes, [](u8 w) { return w; }))
    s.m.report("uninitialised read", s.m.pc, -1, address,
               "local +" + std::to_string(address) + ", " + Machine::name(s.w));
  std::memcpy(out, s.w.local.data() + at, bytes);
}

void load_lane(Step& s, const Access& a, u64 address, int lane, u8* out) {
  Machine& m = s.m;
  const int bytes = a.total();
  if (a.space == GLOBAL) {
    m.check_global(s.w, address, bytes, "load");
    m.check_written(s.w, address, bytes);
    m.note_global_read(s.w, address, bytes, a.has(STRONG));
    m.load_global(s.w, address, bytes, out, a.has(BYPASS_L1));
    if (a.has(ACQUIRE) && a.scope >= GPU) m.acquire(s.w, word_of(address));
    else if (a.has(STRONG)) m.note_relaxed_load(s.w, word_of(address));
  } else if (a.space == SHARED) {
    const u64 offset = m.shared_offset(s.w, address, bytes, "load");
    m.note_shared_read(s.w, offset, bytes);
    std::memcpy(out, s.w.cta->shared.data() + offset, bytes);
  } else if (a.space == LOCAL) {
    load_local(s, address, bytes, lane, out);
  } else {
    if (address + bytes > static_cast<u64>(m.parameters.size)) m.fail("parameter out of bounds");
    std::memcpy(out, m.parameters.bytes + address, bytes);
  }
}

// The same strong load with the same value and nothing done in between is a poll.
void poll(Step& s, u64 address, u64 value) {
  Group& g = s.own();
  const Poll now{s.m.pc, address, value, s.w.effects};
  const bool again = g.poll.pc == now.pc && g.poll.address == address && g.poll.value == value &&
                     g.poll.effects == now.effects;
  if (again) return s.m.sleep(s.w, g, address, s.next);
  g.poll = now;
  s.m.result.polls++;
}

}  // namespace

void load(Step& s) {
  const Access a(s.i);
  u64 address = 0, seen = 0;
  for (int lane = 0; lane < LANES; lane++) {
    if (!(s.lanes >> lane & 1)) continue;
    u8 buffer[32];
    address = s.m.address(s.w, s.operand(1), lane);
    load_lane(s, a, address, lane, buffer);
    for (int k = 0; k < a.elements; k++) {
      u64 value = 0;
      std::memcpy(&value, buffer + k * a.bytes, a.bytes);
      if (a.sign) value = sign_extend(value, 8 * a.bytes);
      s.m.write(s.w, s.operand(0, k), lane, value);
      seen = seen * 31 + value;
    }
  }
  if (a.space == GLOBAL && a.has(STRONG)) poll(s, address, seen);
}

void store(Step& s) {
  const Access a(s.i);
  const int bytes = a.total();
  Machine& m = s.m;
  s.w.effects++;
  for (int lane = 0; lane < LANES; lane++) {
    if (!(s.lanes >> lane & 1)) continue;
    const u64 address = m.address(s.w, s.operand(0), lane);
    u8 buffer[32];
    for (int k = 0; k < a.elements; k++) {
      const u64 value = m.read(s.w, s.operand(1, k), lane, a.bytes == 8 ? B64 : B32);
      std::memcpy(buffer + k * a.bytes, &value, a.bytes);
    }
    if (a.space == GLOBAL) {
      m.check_global(s.w, address, bytes, "store");
      if (a.has(RELEASE)) {
        m.released.erase(word_of(address));  // a plain store ends a chain of releases
        m.release(word_of(address), s.w.clocks);
      }
      const bool same = !std::memcmp(m.global_at(address), buffer, bytes);
      m.note_global_write(s.w, address, bytes, a.has(STRONG), same);
      m.store_global(s.w, address, bytes, buffer, a.has(STRONG));
      if (a.has(RELEASE)) m.tick(s.w);
    } else if (a.space == SHARED) {
      const u64 offset = m.shared_offset(s.w, address, bytes, "store");
      u8* to = s.w.cta->shared.data() + offset;
      m.note_shared_write(s.w, offset, bytes, !std::memcmp(to, buffer, bytes));
      std::memcpy(to, buffer, bytes);
    } else if (a.space == LOCAL) {
      const u64 at = local_offset(s, address, bytes, lane);
      std::memcpy(s.w.local.data() + at, buffer, bytes);
      std::fill_n(s.w.local_written.begin() + at, bytes, 1);
    } else {
      m.fail("store to a parameter");
    }
  }
}

// --- atom, red ---

enum Operation : i32 { ADD, MIN, MAX, BIT_AND, BIT_OR, BIT_XOR, EXCHANGE, COMPARE_AND_SWAP };
enum Number : i32 { UNSIGNED, SIGNED, FLOATING };

template <class T>
static T combined(i32 operation, T old, T value) {
  switch (operation) {
    case ADD: return old + value;
    case MIN: return std::min(old, value);
    case MAX: return std::max(old, value);
    default: break;
  }
  if constexpr (std::is_integral_v<T>) {
    if (operation == BIT_AND) return old & value;
    if (operation == BIT_OR) return old | value;
    if (operation == BIT_XOR) return old ^ value;
  }
  return value;  // exchange
}

static u64 combined(i32 operation, i32 number, int bytes, u64 old, u64 value) {
  if (number == FLOATING && bytes == 8)
    return as_bits(combined(operation, as_double(old), as_double(value)));
  if (number == FLOATING)
    return as_bits(combined(operation, as_float(u32(old)), as_float(u32(value))));
  if (number == SIGNED && bytes == 8) return combined<i64>(operation, old, value);
  if (number == SIGNED) return static_cast<u32>(combined<i32>(operation, old, value));
  return bytes == 8 ? combined<u64>(operation, old, value) : combined<u32>(operation, old, value);
}

// Modifiers: operation, bytes, number, semantics, scope, whether it has a result (atom).
void atomic(Step& s) {
  Machine& m = s.m;
  Warp& w = s.w;
  const i32* modifier = s.i.modifier;
  const i32 operation = modifier[0], bytes = modifier[1], number = modifier[2];
  const i32 semantics = modifier[3], scope = modifier[4], result = modifier[5];
  const i32 type = bytes == 8 ? B64 : B32;
  w.effects++;
  for (int lane = 0; lane < LANES; lane++) {
    if (!(s.lanes >> lane & 1)) continue;
    const u64 address = m.address(w, s.operand(result), lane), word = word_of(address);
    m.check_global(w, address, bytes, "atomic");
    m.check_written(w, address, bytes);
    // A fence before a relaxed operation makes a release of it.
    if (semantics & RELEASE && scope >= GPU) m.release(word, w.clocks);
    else if (!w.fenced.empty()) m.release(word, w.fenced.data());
    m.note_global_read(w, address, bytes, scope >= GPU);
    m.note_global_write(w, address, bytes, scope >= GPU, false);
    for (int k = 0; k < bytes; k += 2) m.drain(*w.cta, (address - m.global.base + k) / 2);
    u64 old = 0;
    std::memcpy(&old, m.global_at(address), bytes);
    const u64 value = m.read(w, s.operand(result + 1), lane, type);
    u64 fresh = combined(operation, number, bytes, old, value);
    if (operation == COMPARE_AND_SWAP)
      fresh = old == value ? m.read(w, s.operand(result + 2), lane, type) : old;
    std::memcpy(m.global_at(address), &fresh, bytes);
    m.wake(address);
    if (result) m.write(w, s.operand(0), lane, old);
    if (semantics & ACQUIRE && scope >= GPU) m.acquire(w, word);
    if (semantics & RELEASE) m.tick(w);
  }
}

// Modifiers: scope. Within a program the machine orders nothing by fences: barriers do.
void fence(Step& s) {
  if (s.i.modifier[0] >= GPU) s.m.fence(s.w);
}

}  // namespace ptx
