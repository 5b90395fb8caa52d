// mov (packing and unpacking too), setp, cvt.
#include <algorithm>
#include <cmath>

#include "instructions.h"

namespace ptx {

namespace {

bool is_float(i32 type) { return type == F16 || type == BF16 || type == F32 || type == F64; }
bool is_signed(i32 type) { return type == S8 || type == S16 || type == S32 || type == S64; }
int bits_of(i32 type) {
  return type <= B8 ? 8 : type <= BF16 ? 16 : type <= F32 || type == TF32 ? 32 : 64;
}
u64 low_bits(u64 value, int bits) { return bits < 64 ? value & ((1ull << bits) - 1) : value; }

double to_double(u64 bits, i32 type) {
  if (type == F64) return as_double(bits);
  if (type == F32) return as_float(static_cast<u32>(bits));
  return type == BF16 ? bf16_to_float(bits & 0xffff) : half_to_float(bits & 0xffff);
}

// Modifiers of cvt; ROUND_INTEGER and above: to an integer that stays a float (.rni).
enum Rounding : i32 { NEAREST, ZERO, DOWN, UP, ROUND_INTEGER };

double round_to_integer(double x, i32 rounding) {
  switch (rounding & 3) {
    case ZERO: return std::trunc(x);
    case DOWN: return std::floor(x);
    case UP: return std::ceil(x);
    default: return std::nearbyint(x);
  }
}

u64 float_to_float(double x, i32 to, i32 rounding, bool saturate) {
  if (rounding >= ROUND_INTEGER) x = round_to_integer(x, rounding);
  if (saturate) x = x != x ? 0 : std::clamp(x, 0.0, 1.0);
  if (to == F64) return as_bits(x);
  if (to == F32) return as_bits(static_cast<float>(x));
  return to == BF16 ? to_bf16(static_cast<float>(x)) : to_half(x);
}

// Clamped to what the integer holds; not a number becomes 0.
u64 float_to_integer(double x, i32 to, i32 rounding) {
  x = round_to_integer(x, rounding);
  const int bits = bits_of(to) - is_signed(to);
  const double end = std::ldexp(1.0, bits), begin = is_signed(to) ? -end : 0;
  if (x != x) return 0;
  if (x <= begin) return is_signed(to) ? static_cast<u64>(static_cast<i64>(begin)) : 0;
  if (x >= end) return low_bits(~0ull, bits);
  return is_signed(to) ? static_cast<u64>(static_cast<i64>(x)) : static_cast<u64>(x);
}

u64 integer_to_float(u64 value, bool negative_possible, i32 to) {
  const i64 number = static_cast<i64>(value);
  if (to == F64) return as_bits(negative_possible ? double(number) : double(value));
  const float x = negative_possible ? float(number) : float(value);
  return to == F32 ? as_bits(x) : to == BF16 ? to_bf16(x) : to_half(x);
}

u64 converted(u64 value, i32 to, i32 from, i32 rounding, bool saturate) {
  if (is_float(from)) {
    const double x = to_double(value, from);
    return is_float(to) ? float_to_float(x, to, rounding, saturate)
                        : float_to_integer(x, to, rounding);
  }
  value = low_bits(value, bits_of(from));
  if (is_signed(from)) value = sign_extend(value, bits_of(from));
  return is_float(to) ? integer_to_float(value, is_signed(from), to) : value;
}

}  // namespace

// Modifiers: bits. An operand in braces is packed into, or unpacked from, one register.
void move(Step& s) {
  if (s.operand(0).kind == PREDICATE)
    return s.m.set_predicate(s.w, s.operand(0), s.m.predicate(s.w, s.operand(1)), s.lanes);
  const int bits = s.i.modifier[0], sources = s.i.size[1], targets = s.i.size[0];
  const int part = bits / std::max(sources, targets);
  const i32 type = bits == 64 ? B64 : B32;
  for (int lane = 0; lane < LANES; lane++) {
    if (!(s.lanes >> lane & 1)) continue;
    u64 value = 0;
    for (int k = 0; k < sources; k++) {
      const u64 piece = s.m.read(s.w, s.operand(1, k), lane, sources > 1 ? B32 : type);
      value |= low_bits(piece, bits / sources) << k * (bits / sources);
    }
    if (targets == 1) s.m.write(s.w, s.operand(0), lane, value);
    for (int k = 0; targets > 1 && k < targets; k++)
      s.m.write(s.w, s.operand(0, k), lane, low_bits(value >> k * part, part));
  }
}

// --- setp ---

// Modifiers: comparison, type, how to combine with a third predicate (0: not at all), whether
// registers have pairs, whose halves give a predicate each.
enum Comparison : i32 { EQ, NE, LT, LE, GT, GE, OR_UNORDERED = 8, ORDERED = 16, UNORDERED = 17 };
enum Combine : i32 { ALONE, AND, OR, XOR };

template <class T>
static bool holds(i32 comparison, T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    const bool unordered = a != a || b != b;
    if (comparison == ORDERED) return !unordered;
    if (comparison == UNORDERED) return unordered;
    if (unordered) return comparison & OR_UNORDERED;
    comparison &= 7;
  }
  switch (comparison) {
    case EQ: return a == b;
    case NE: return a != b;
    case LT: return a < b;
    case LE: return a <= b;
    case GT: return a > b;
    default: return a >= b;
  }
}

template <class T>
static u32 compare_32(Step& s, T (*as)(u32), int shift = 0) {
  const u32 *a = s.m.source_32(s.w, s.operand(1)), *b = s.m.source_32(s.w, s.operand(2));
  u32 bits = 0;
  for (int lane = 0; lane < LANES; lane++)
    bits |= u32(holds<T>(s.i.modifier[0], as(a[lane] >> shift), as(b[lane] >> shift))) << lane;
  return bits;
}
template <class T>
static u32 compare_64(Step& s, T (*as)(u64)) {
  const u64 *a = s.m.source_64(s.w, s.operand(1)), *b = s.m.source_64(s.w, s.operand(2));
  u32 bits = 0;
  for (int lane = 0; lane < LANES; lane++)
    bits |= u32(holds<T>(s.i.modifier[0], as(a[lane]), as(b[lane]))) << lane;
  return bits;
}

static u32 compare_by_type(Step& s, int shift = 0) {
  switch (s.i.modifier[1]) {
    case S16: return compare_32<i16>(s, [](u32 x) { return static_cast<i16>(x); });
    case U16: case B16: return compare_32<u16>(s, [](u32 x) { return static_cast<u16>(x); });
    case S32: return compare_32<i32>(s, [](u32 x) { return static_cast<i32>(x); });
    case U32: case B32: return compare_32<u32>(s, [](u32 x) { return x; });
    case S64: return compare_64<i64>(s, [](u64 x) { return static_cast<i64>(x); });
    case U64: case B64: return compare_64<u64>(s, [](u64 x) { return x; });
    case F16: return compare_32<float>(s, [](u32 x) { return half_to_float(u16(x)); }, shift);
    case BF16: return compare_32<float>(s, [](u32 x) { return bf16_to_float(u16(x)); }, shift);
    case F32: return compare_32<float>(s, [](u32 x) { return as_float(x); });
    case F64: return compare_64<double>(s, [](u64 x) { return as_double(x); });
    default: s.m.fail("setp of this type is not supported");
  }
}

static u32 combine(i32 how, u32 bits, u32 other) {
  return how == AND ? bits & other : how == OR ? bits | other : how == XOR ? bits ^ other : bits;
}

void compare(Step& s) {
  const u32 bits = compare_by_type(s);
  const i32 how = s.i.modifier[2];
  const u32 other = how ? s.m.predicate(s.w, s.operand(3)) : 0;
  s.m.set_predicate(s.w, s.operand(0), combine(how, bits, other), s.lanes);
  if (s.i.size[0] == 1) return;
  const u32 more = s.i.modifier[3] ? compare_by_type(s, 16) : ~bits;
  s.m.set_predicate(s.w, s.operand(0, 1), combine(how, more, other), s.lanes);
}

// --- cvt ---

// Modifiers: type to, type from, rounding, saturate.
void convert(Step& s) {
  const i32 to = s.i.modifier[0], from = s.i.modifier[1];
  const int bits = bits_of(to);
  for (int lane = 0; lane < LANES; lane++) {
    if (!(s.lanes >> lane & 1)) continue;
    const u64 in = s.m.read(s.w, s.operand(1), lane, from);
    u64 out = low_bits(converted(in, to, from, s.i.modifier[2], s.i.modifier[3]), bits);
    // A register that is wider than the type holds the value extended.
    if (is_signed(to) && bits != 16) out = sign_extend(out, bits);
    s.m.write(s.w, s.operand(0), lane, out);
  }
}

template <class Round>
static void convert_pair(Step& s, Round round) {
  const u32 *high = s.m.source_32(s.w, s.operand(1)), *low = s.m.source_32(s.w, s.operand(2));
  u32* out = s.m.target_32(s.w, s.operand(0));
  for (int lane = 0; lane < LANES; lane++)
    if (s.lanes >> lane & 1)
      out[lane] = round(as_float(high[lane])) << 16 | round(as_float(low[lane]));
}
void convert_pair_bf16(Step& s) { convert_pair(s, to_bf16); }
void convert_pair_half(Step& s) { convert_pair(s, to_half); }

}  // namespace ptx
