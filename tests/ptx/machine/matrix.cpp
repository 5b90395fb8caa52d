// ldmatrix, stmatrix and mma: fragments of matrices in a warp's registers.
#include <cmath>
#include <cstring>

#include "instructions.h"

namespace ptx {

namespace {

// An 8 x 8 matrix of 16-bit elements; lane l holds row l / 4, columns 2 (l % 4) and the next.
struct Matrix {
  u16 at[8][8];

  u32 pair(int lane, bool transposed) const {
    const int r = lane / 4, c = lane % 4 * 2;
    const u32 low = transposed ? at[c][r] : at[r][c];
    return low | u32(transposed ? at[c + 1][r] : at[r][c + 1]) << 16;
  }
  void set_pair(int lane, bool transposed, u32 pair) {
    const int r = lane / 4, c = lane % 4 * 2;
    (transposed ? at[c][r] : at[r][c]) = static_cast<u16>(pair);
    (transposed ? at[c + 1][r] : at[r][c + 1]) = static_cast<u16>(pair >> 16);
  }
};

}  // namespace

// Modifiers: matrices, transposed. Lane 8 q + r holds the address of row r of matrix q.
void load_matrix(Step& s) {
  const int count = s.i.modifier[0];
  Matrix matrices[4];
  for (int k = 0; k < 8 * count; k++) {
    const u64 address = s.m.address(s.w, s.operand(1), k);
    const u64 offset = s.m.shared_offset(s.w, address, 16, "ldmatrix");
    s.m.note_shared_read(s.w, offset, 16);
    std::memcpy(matrices[k / 8].at[k % 8], s.w.cta->shared.data() + offset, 16);
  }
  for (int q = 0; q < count; q++) {
    u32* out = s.m.target_32(s.w, s.operand(0, q));
    for (int lane = 0; lane < LANES; lane++)
      out[lane] = matrices[q].pair(lane, s.i.modifier[1]);
  }
}

void store_matrix(Step& s) {
  const int count = s.i.modifier[0];
  Matrix matrices[4];
  s.w.effects++;
  for (int q = 0; q < count; q++) {
    const u32* in = s.m.source_32(s.w, s.operand(1, q));
    for (int lane = 0; lane < LANES; lane++)
      matrices[q].set_pair(lane, s.i.modifier[1], in[lane]);
  }
  for (int k = 0; k < 8 * count; k++) {
    const u64 address = s.m.address(s.w, s.operand(0), k);
    const u64 offset = s.m.shared_offset(s.w, address, 16, "stmatrix");
    const auto* row = matrices[k / 8].at[k % 8];
    u8* to = s.w.cta->shared.data() + offset;
    s.m.note_shared_write(s.w, offset, 16, !std::memcmp(to, row, 16));
    std::memcpy(to, row, 16);
  }
}

// --- mma.m16n8: products are summed in double and rounded once ---

static const u32* source(Step& s, const Operand& o, u32) { return s.m.source_32(s.w, o); }
static const u64* source(Step& s, const Operand& o, u64) { return s.m.source_64(s.w, o); }
static u32* target(Step& s, const Operand& o, u32) { return s.m.target_32(s.w, o); }
static u64* target(Step& s, const Operand& o, u64) { return s.m.target_64(s.w, o); }
static double number(u32 bits) { return as_float(bits); }
static double number(u64 bits) { return as_double(bits); }
static void round_to(u32& out, double x) { out = as_bits(static_cast<float>(x)); }
static void round_to(u64& out, double x) { out = as_bits(x); }

// Modifiers: k. Operands: d, a, b, c. A register is of `Bits` and holds ELEMENTS of a or b.
template <class Bits, int ELEMENTS, class Read>
static void multiply(Step& s, Read read) {
  const int K = s.i.modifier[0];
  double a[16][16], b[16][8];
  for (int q = 0; q < s.i.size[1]; q++) {
    const Bits* in = source(s, s.operand(1, q), Bits());
    for (int lane = 0; lane < LANES; lane++)
      for (int e = 0; e < ELEMENTS; e++)
        a[lane / 4 + q % 2 * 8][(lane % 4 + q / 2 * 4) * ELEMENTS + e] = read(in[lane], e);
  }
  for (int q = 0; q < s.i.size[2]; q++) {
    const Bits* in = source(s, s.operand(2, q), Bits());
    for (int lane = 0; lane < LANES; lane++)
      for (int e = 0; e < ELEMENTS; e++)
        b[(lane % 4 + q * 4) * ELEMENTS + e][lane / 4] = read(in[lane], e);
  }
  Bits out[4][LANES];
  for (int q = 0; q < 4; q++) {
    const Bits* c = source(s, s.operand(3, q), Bits());
    for (int lane = 0; lane < LANES; lane++) {
      const int row = lane / 4 + q / 2 * 8, column = lane % 4 * 2 + q % 2;
      double sum = number(c[lane]);
      for (int k = 0; k < K; k++) sum += a[row][k] * b[k][column];
      round_to(out[q][lane], sum);
    }
  }
  for (int q = 0; q < 4; q++)
    std::memcpy(target(s, s.operand(0, q), Bits()), out[q], sizeof out[q]);
  s.m.result.products++;
}

void multiply_half(Step& s) {
  multiply<u32, 2>(s, [](u32 bits, int e) { return half_to_float(bits >> 16 * e & 0xffff); });
}
void multiply_bf16(Step& s) {
  multiply<u32, 2>(s, [](u32 bits, int e) { return bf16_to_float(bits >> 16 * e & 0xffff); });
}
void multiply_tf32(Step& s) {
  multiply<u32, 1>(s, [](u32 bits, int) { return tf32_to_float(bits); });
}
void multiply_double(Step& s) {
  multiply<u64, 1>(s, [](u64 bits, int) { return as_double(bits); });
}

// m8n8k4: lane l holds a[l / 4][l % 4], b[l % 4][l / 4] and two elements of c and d.
void multiply_double_8x8(Step& s) {
  const u64 *a = s.m.source_64(s.w, s.operand(1)), *b = s.m.source_64(s.w, s.operand(2));
  u64 out[2][LANES];
  for (int q = 0; q < 2; q++) {
    const u64* c = s.m.source_64(s.w, s.operand(3, q));
    for (int lane = 0; lane < LANES; lane++) {
      const int row = lane / 4, column = lane % 4 * 2 + q;
      double sum = as_double(c[lane]);
      for (int k = 0; k < 4; k++)
        sum = std::fma(as_double(a[row * 4 + k]), as_double(b[column * 4 + k]), sum);
      out[q][lane] = as_bits(sum);
    }
  }
  for (int q = 0; q < 2; q++)
    std::memcpy(s.m.target_64(s.w, s.operand(0, q)), out[q], sizeof out[q]);
  s.m.result.products++;
}

}  // namespace ptx
