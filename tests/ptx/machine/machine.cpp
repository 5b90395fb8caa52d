// Findings and operands.
#include "machine.h"

namespace ptx {

// The same kind at the same two instructions is one finding, counted.
void Machine::report(const char* kind, i32 at, i32 before_pc, u64 address,
                     const std::string& text) {
  const auto [found, fresh] =
      finding_index_.try_emplace({kind, at, before_pc}, findings.size());
  if (!fresh) {
    if (found->second < findings.size()) findings[found->second].count++;
  } else if (findings.size() < static_cast<size_t>(launch.max_findings)) {
    findings.push_back({kind, at, before_pc, 1, address, text});
  } else {
    finding_index_.erase(found);
  }
}

void Machine::fail(const std::string& what) const { throw Error(what); }

std::string Machine::name(const Warp& w) {
  return "program " + std::to_string(w.cta->id) + " warp " + std::to_string(w.id);
}

u32 Machine::predicate(const Warp& w, const Operand& o) const {
  const u32 bits =
      o.kind == CONSTANT ? (source_32(w, o)[0] ? ALL_LANES : 0) : w.predicates[o.index];
  return o.negated ? ~bits : bits;
}

void Machine::set_predicate(Warp& w, const Operand& o, u32 value, u32 lanes) const {
  if (o.kind != PREDICATE) return;  // _
  u32& bits = w.predicates[o.index];
  bits = (bits & ~lanes) | (value & lanes);
}

u64 Machine::read(const Warp& w, const Operand& o, int lane, i32 type) const {
  const bool wide = type == U64 || type == S64 || type == B64 || type == F64;
  if (o.kind == REGISTER_64 || (o.kind == CONSTANT && wide)) return source_64(w, o)[lane];
  return source_32(w, o)[lane];
}

void Machine::write(Warp& w, const Operand& o, int lane, u64 value) const {
  if (o.kind == REGISTER_64) target_64(w, o)[lane] = value;
  else if (o.kind == REGISTER_32) target_32(w, o)[lane] = static_cast<u32>(value);
  else if (o.kind != NOTHING) fail("the destination is no register");
}

u64 Machine::address(const Warp& w, const Operand& o, int lane) const {
  const size_t at = o.index * LANES + lane;
  const u64 base = o.base == REGISTER_64   ? w.registers_64[at]
                   : o.base == REGISTER_32 ? w.registers_32[at]
                                           : 0;
  return base + o.value;
}

}  // namespace ptx
