// The table of instructions. A name stands for itself, or for a family whose modifiers
// tests/ptx/instructions.py decodes. What is not here is an error that names it.
#include "instructions.h"

#include <algorithm>
#include <cmath>

#include "lanewise.h"

namespace ptx {

namespace {

using i128 = __int128;
using u128 = unsigned __int128;

template <class T>
T shift_left(T a, u32 n) {
  return n >= sizeof(T) * 8 ? 0 : static_cast<T>(a << n);
}
template <class T>
T shift_right(T a, u32 n) {  // arithmetic where T is signed
  const u32 bits = sizeof(T) * 8;
  if (n >= bits) return std::is_signed_v<T> ? static_cast<T>(a >> (bits - 1)) : 0;
  return static_cast<T>(a >> n);
}

// What a GPU gives for a division by zero; and no trap for the one quotient that overflows.
template <class T>
T divide(T a, T b) {
  if (b == 0) return static_cast<T>(~T(0));
  if constexpr (std::is_signed_v<T>)
    if (b == -1) return static_cast<T>(T(0) - static_cast<std::make_unsigned_t<T>>(a));
  return a / b;
}
template <class T>
T remainder(T a, T b) {
  if (b == 0) return static_cast<T>(~T(0));
  if constexpr (std::is_signed_v<T>)
    if (b == -1) return 0;
  return a % b;
}

template <class T>
T extract_bits(T a, u32 from, u32 count) {
  using Unsigned = std::make_unsigned_t<T>;
  constexpr u32 BITS = sizeof(T) * 8;
  from &= 255, count &= 255;
  const T fill = std::is_signed_v<T> && a < 0 ? static_cast<T>(-1) : T(0);
  if (count == 0) return 0;
  if (from >= BITS) return fill;
  if (from + count >= BITS) return a >> from;
  const u32 above = BITS - from - count;
  return static_cast<T>(static_cast<Unsigned>(a) << above) >> (BITS - count);
}
u32 insert_bits(u32 a, u32 into, u32 from, u32 count) {
  from &= 255, count &= 255;
  if (from > 31 || count == 0) return into;
  const u32 mask = (count >= 32 ? ~0u : (1u << count) - 1) << from;
  return (into & ~mask) | (a << from & mask);
}
u32 permute(u32 a, u32 b, u32 selector) {
  const u64 bytes = static_cast<u64>(b) << 32 | a;
  u32 result = 0;
  for (int k = 0; k < 4; k++) {
    const u32 pick = selector >> 4 * k & 15, byte = bytes >> 8 * (pick & 7) & 255;
    result |= (pick & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * k;
  }
  return result;
}
u32 logic(u32 a, u32 b, u32 c, u32 truth) {
  u32 result = 0;
  for (int k = 0; k < 8; k++)
    if (truth >> k & 1) result |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
  return result;
}
u32 reverse(u32 a) {
  u32 result = 0;
  for (int k = 0; k < 32; k++) result |= (a >> k & 1) << (31 - k);
  return result;
}

// Where one is not a number the other one counts; -0 is less than +0.
template <class T>
T least(T a, T b) {
  if (a != a || b != b) return a != a ? b : a;
  return a < b || (a == b && std::signbit(a)) ? a : b;
}
template <class T>
T greatest(T a, T b) {
  return -least<T>(-a, -b);
}

}  // namespace

// The host's exp2, log2, division and roots stand for approximate ones: they are more accurate.
const Entry TABLE[] = {
    // --- integers ---
    {"add.s16 add.u16", lanewise<[](u16 a, u16 b) -> u16 { return a + b; }>},
    {"add.s32 add.u32", lanewise<[](u32 a, u32 b) { return a + b; }>},
    {"add.s64 add.u64", lanewise<[](u64 a, u64 b) { return a + b; }>},
    {"sub.s16 sub.u16", lanewise<[](u16 a, u16 b) -> u16 { return a - b; }>},
    {"sub.s32 sub.u32", lanewise<[](u32 a, u32 b) { return a - b; }>},
    {"sub.s64 sub.u64", lanewise<[](u64 a, u64 b) { return a - b; }>},
    {"mul.lo.s16 mul.lo.u16", lanewise<[](u16 a, u16 b) -> u16 { return u32(a) * b; }>},
    {"mul.lo.s32 mul.lo.u32", lanewise<[](u32 a, u32 b) { return a * b; }>},
    {"mul.lo.s64 mul.lo.u64", lanewise<[](u64 a, u64 b) { return a * b; }>},
    {"mul.hi.u32", lanewise<[](u32 a, u32 b) -> u32 { return (u64(a) * b >> 32); }>},
    {"mul.hi.s32", lanewise<[](i32 a, i32 b) -> i32 { return (i64(a) * b >> 32); }>},
    {"mul.hi.u64", lanewise<[](u64 a, u64 b) -> u64 { return (u128(a) * b >> 64); }>},
    {"mul.hi.s64", lanewise<[](i64 a, i64 b) -> i64 { return (i128(a) * b >> 64); }>},
    {"mul.wide.u16", lanewise<[](u16 a, u16 b) { return u32(a) * b; }>},
    {"mul.wide.s16", lanewise<[](i16 a, i16 b) { return i32(a) * b; }>},
    {"mul.wide.u32", lanewise<[](u32 a, u32 b) { return u64(a) * b; }>},
    {"mul.wide.s32", lanewise<[](i32 a, i32 b) { return i64(a) * b; }>},
    {"mad.lo.s32 mad.lo.u32", lanewise<[](u32 a, u32 b, u32 c) { return a * b + c; }>},
    {"mad.lo.s64 mad.lo.u64", lanewise<[](u64 a, u64 b, u64 c) { return a * b + c; }>},
    {"mad.wide.u16", lanewise<[](u16 a, u16 b, u32 c) { return u32(a) * b + c; }>},
    {"mad.wide.s16", lanewise<[](i16 a, i16 b, u32 c) { return u32(i32(a) * b) + c; }>},
    {"mad.wide.u32", lanewise<[](u32 a, u32 b, u64 c) { return u64(a) * b + c; }>},
    {"mad.wide.s32", lanewise<[](i32 a, i32 b, u64 c) { return u64(i64(a) * b) + c; }>},
    {"div.u32", lanewise<[](u32 a, u32 b) { return divide(a, b); }>},
    {"div.s32", lanewise<[](i32 a, i32 b) { return divide(a, b); }>},
    {"div.u64", lanewise<[](u64 a, u64 b) { return divide(a, b); }>},
    {"div.s64", lanewise<[](i64 a, i64 b) { return divide(a, b); }>},
    {"rem.u32", lanewise<[](u32 a, u32 b) { return remainder(a, b); }>},
    {"rem.s32", lanewise<[](i32 a, i32 b) { return remainder(a, b); }>},
    {"rem.u64", lanewise<[](u64 a, u64 b) { return remainder(a, b); }>},
    {"rem.s64", lanewise<[](i64 a, i64 b) { return remainder(a, b); }>},
    {"neg.s16", lanewise<[](u16 a) -> u16 { return -a; }>},
    {"neg.s32", lanewise<[](u32 a) { return 0 - a; }>},
    {"neg.s64", lanewise<[](u64 a) { return 0 - a; }>},
    {"abs.s32", lanewise<[](i32 a) -> u32 { return a < 0 ? 0 - u32(a) : a; }>},
    {"abs.s64", lanewise<[](i64 a) -> u64 { return a < 0 ? 0 - u64(a) : a; }>},
    {"min.u32", lanewise<[](u32 a, u32 b) { return std::min(a, b); }>},
    {"min.s32", lanewise<[](i32 a, i32 b) { return std::min(a, b); }>},
    {"min.u64", lanewise<[](u64 a, u64 b) { return std::min(a, b); }>},
    {"min.s64", lanewise<[](i64 a, i64 b) { return std::min(a, b); }>},
    {"max.u32", lanewise<[](u32 a, u32 b) { return std::max(a, b); }>},
    {"max.s32", lanewise<[](i32 a, i32 b) { return std::max(a, b); }>},
    {"max.u64", lanewise<[](u64 a, u64 b) { return std::max(a, b); }>},
    {"max.s64", lanewise<[](i64 a, i64 b) { return std::max(a, b); }>},

    // --- bits ---
    {"and.b16", lanewise<[](u16 a, u16 b) -> u16 { return a & b; }>},
    {"and.b32", lanewise<[](u32 a, u32 b) { return a & b; }>},
    {"and.b64", lanewise<[](u64 a, u64 b) { return a & b; }>},
    {"and.pred", lanewise<[](bool a, bool b) { return a && b; }>},
    {"or.b16", lanewise<[](u16 a, u16 b) -> u16 { return a | b; }>},
    {"or.b32", lanewise<[](u32 a, u32 b) { return a | b; }>},
    {"or.b64", lanewise<[](u64 a, u64 b) { return a | b; }>},
    {"or.pred", lanewise<[](bool a, bool b) { return a || b; }>},
    {"xor.b16", lanewise<[](u16 a, u16 b) -> u16 { return a ^ b; }>},
    {"xor.b32", lanewise<[](u32 a, u32 b) { return a ^ b; }>},
    {"xor.b64", lanewise<[](u64 a, u64 b) { return a ^ b; }>},
    {"xor.pred", lanewise<[](bool a, bool b) { return a != b; }>},
    {"not.b16", lanewise<[](u16 a) -> u16 { return ~a; }>},
    {"not.b32", lanewise<[](u32 a) { return ~a; }>},
    {"not.b64", lanewise<[](u64 a) { return ~a; }>},
    {"not.pred", lanewise<[](bool a) { return !a; }>},
    {"shl.b16", lanewise<[](u16 a, u32 n) { return shift_left(a, n); }>},
    {"shl.b32", lanewise<[](u32 a, u32 n) { return shift_left(a, n); }>},
    {"shl.b64", lanewise<[](u64 a, u32 n) { return shift_left(a, n); }>},
    {"shr.u16 shr.b16", lanewise<[](u16 a, u32 n) { return shift_right(a, n); }>},
    {"shr.u32 shr.b32", lanewise<[](u32 a, u32 n) { return shift_right(a, n); }>},
    {"shr.u64 shr.b64", lanewise<[](u64 a, u32 n) { return shift_right(a, n); }>},
    {"shr.s16", lanewise<[](i16 a, u32 n) { return shift_right(a, n); }>},
    {"shr.s32", lanewise<[](i32 a, u32 n) { return shift_right(a, n); }>},
    {"shr.s64", lanewise<[](i64 a, u32 n) { return shift_right(a, n); }>},
    {"shf.l.wrap.b32",
     lanewise<[](u32 a, u32 b, u32 n) -> u32 { return ((u64(b) << 32 | a) << (n & 31) >> 32); }>},
    {"shf.r.wrap.b32",
     lanewise<[](u32 a, u32 b, u32 n) -> u32 { return ((u64(b) << 32 | a) >> (n & 31)); }>},
    {"bfe.u32", lanewise<[](u32 a, u32 from, u32 n) { return extract_bits(a, from, n); }>},
    {"bfe.s32", lanewise<[](i32 a, u32 from, u32 n) { return extract_bits(a, from, n); }>},
    {"bfe.u64", lanewise<[](u64 a, u32 from, u32 n) { return extract_bits(a, from, n); }>},
    {"bfe.s64", lanewise<[](i64 a, u32 from, u32 n) { return extract_bits(a, from, n); }>},
    {"bfi.b32", lanewise<[](u32 a, u32 b, u32 from, u32 n) { return insert_bits(a, b, from, n); }>},
    {"prmt.b32", lanewise<[](u32 a, u32 b, u32 selector) { return permute(a, b, selector); }>},
    {"lop3.b32", lanewise<[](u32 a, u32 b, u32 c, u32 truth) { return logic(a, b, c, truth); }>},
    {"popc.b32", lanewise<[](u32 a) -> u32 { return std::popcount(a); }>},
    {"clz.b32", lanewise<[](u32 a) -> u32 { return std::countl_zero(a); }>},
    {"brev.b32", lanewise<[](u32 a) { return reverse(a); }>},
    {"selp.b16 selp.u16 selp.s16 selp.b32 selp.u32 selp.s32 selp.f32",
     lanewise<[](u32 a, u32 b, bool p) { return p ? a : b; }>},
    {"selp.b64 selp.u64 selp.s64 selp.f64",
     lanewise<[](u64 a, u64 b, bool p) { return p ? a : b; }>},

    // --- floating point ---
    {"add.f32 add.rn.f32", lanewise<[](float a, float b) { return a + b; }>},
    {"add.f64 add.rn.f64", lanewise<[](double a, double b) { return a + b; }>},
    {"sub.f32 sub.rn.f32", lanewise<[](float a, float b) { return a - b; }>},
    {"sub.f64 sub.rn.f64", lanewise<[](double a, double b) { return a - b; }>},
    {"mul.f32 mul.rn.f32", lanewise<[](float a, float b) { return a * b; }>},
    {"mul.f64 mul.rn.f64", lanewise<[](double a, double b) { return a * b; }>},
    {"fma.rn.f32 fma.rn.ftz.f32", lanewise<[](float a, float b, float c) { return std::fma(a, b, c); }>},
    {"fma.rn.f64", lanewise<[](double a, double b, double c) { return std::fma(a, b, c); }>},
    {"div.full.f32 div.rn.f32 div.approx.f32", lanewise<[](float a, float b) { return a / b; }>},
    {"div.rn.f64", lanewise<[](double a, double b) { return a / b; }>},
    {"neg.f32", lanewise<[](u32 a) { return a ^ 0x80000000u; }>},
    {"neg.f64", lanewise<[](u64 a) { return a ^ 1ull << 63; }>},
    // .ftz flushes denormals besides: nothing here rests on these.
    {"abs.f32 abs.ftz.f32", lanewise<[](u32 a) { return a & 0x7fffffffu; }>},
    {"abs.f64", lanewise<[](u64 a) { return a & ~(1ull << 63); }>},
    {"min.f32", lanewise<[](float a, float b) { return least(a, b); }>},
    {"min.f64", lanewise<[](double a, double b) { return least(a, b); }>},
    {"max.f32", lanewise<[](float a, float b) { return greatest(a, b); }>},
    {"max.f64", lanewise<[](double a, double b) { return greatest(a, b); }>},
    {"min.NaN.f32",
     lanewise<[](float a, float b) { return a != a || b != b ? NAN : least(a, b); }>},
    {"max.NaN.f32",
     lanewise<[](float a, float b) { return a != a || b != b ? NAN : greatest(a, b); }>},
    {"sqrt.approx.f32 sqrt.approx.ftz.f32 sqrt.rn.f32", lanewise<[](float a) { return std::sqrt(a); }>},
    {"sqrt.rn.f64", lanewise<[](double a) { return std::sqrt(a); }>},
    {"rsqrt.approx.f32", lanewise<[](float a) -> float { return 1 / std::sqrt(double(a)); }>},
    {"rcp.approx.f32 rcp.rn.f32", lanewise<[](float a) { return 1 / a; }>},
    {"rcp.rn.f64", lanewise<[](double a) { return 1 / a; }>},
    // The upper half of a double's bits in, and out.
    {"rcp.approx.ftz.f64", lanewise<[](u64 a) -> u64 {
       return std::bit_cast<u64>(1 / std::bit_cast<double>(a & ~0xffffffffull)) & ~0xffffffffull;
     }>},
    {"ex2.approx.f32 ex2.approx.ftz.f32", lanewise<[](float a) { return std::exp2(a); }>},
    {"lg2.approx.f32 lg2.approx.ftz.f32", lanewise<[](float a) { return std::log2(a); }>},
    {"tanh.approx.f32", lanewise<[](float a) { return std::tanh(a); }>},
    {"abs.bf16 abs.f16", lanewise<[](u16 a) -> u16 { return a & 0x7fff; }>},
    {"neg.bf16 neg.f16", lanewise<[](u16 a) -> u16 { return a ^ 0x8000; }>},
    {"abs.bf16x2 abs.f16x2", lanewise<[](u32 a) { return a & 0x7fff7fffu; }>},
    {"neg.bf16x2 neg.f16x2", lanewise<[](u32 a) { return a ^ 0x80008000u; }>},

    // --- moves and conversions ---
    {"mov", move},
    {"cvta.local.u64 cvta.to.local.u64 cvta.to.global.u64",
     lanewise<[](u64 a) { return a; }>},  // no generic addresses: every access names its space
    {"setp", compare},
    {"cvt", convert},
    {"cvt.rn.bf16x2.f32", convert_pair_bf16},
    {"cvt.rn.f16x2.f32", convert_pair_half},

    // --- memory ---
    {"ld", load},
    {"st", store},
    {"atom", atomic},
    {"fence", fence},
    {"ldmatrix", load_matrix},
    {"stmatrix", store_matrix},
    {"cp.async", copy},
    {"cp.async.commit_group", commit_copies},
    {"cp.async.wait_group", wait_for_copies},
    {"fence.proxy.async.shared::cta fence.proxy.async", proxy_fence},

    // --- tensor cores ---
    {"mma.f16", multiply_half},
    {"mma.bf16", multiply_bf16},
    {"mma.tf32", multiply_tf32},
    {"mma.f64", multiply_double},
    {"mma.m8n8k4.f64", multiply_double_8x8},
    {"wgmma.mma_async", wgmma},
    {"wgmma.fence.sync.aligned", wgmma_fence},
    {"wgmma.commit_group.sync.aligned", commit_products},
    {"wgmma.wait_group", wait_for_products},

    // --- control and other lanes ---
    {"bra bra.uni", branch},
    {"ret exit", leave},
    {"trap", trap},
    {"bar.sync barrier.sync barrier.sync.aligned barrier.cta.sync.aligned", barrier},
    {"bar.warp.sync", meet},
    {"shfl", shuffle},
    {"vote", vote},
    {"redux", reduce},
    {"activemask.b32", active_mask},
};

const int TABLE_SIZE = static_cast<int>(sizeof TABLE / sizeof *TABLE);

}  // namespace ptx
