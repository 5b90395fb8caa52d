// wgmma: asynchronous products of a group of four warps, operands in shared memory.
#include <algorithm>
#include <cstring>
#include <utility>

#include "instructions.h"

namespace ptx {

namespace {

// Modifiers of wgmma.mma_async: n, k, type, flags, whether A is in registers.
enum Flag : i32 { A_TRANSPOSED = 1, B_TRANSPOSED = 2, A_NEGATED = 4, B_NEGATED = 8 };
struct Shape {
  i32 n, k, type, flags, a_in_registers;
  explicit Shape(const Instruction& i)
      : n(i.modifier[0]), k(i.modifier[1]), type(i.modifier[2]), flags(i.modifier[3]),
        a_in_registers(i.modifier[4]) {}
  int bytes() const { return type == TF32 ? 4 : 2; }
};
constexpr int ROWS = 16;  // of the 64, that one warp multiplies

// A matrix descriptor: where an operand lies in shared memory. PTX ISA, "Matrix descriptor".
struct Descriptor {
  u64 start, leading, stride;
  int swizzle;  // 0 none, 1: 128 bytes, 2: 64, 3: 32

  explicit Descriptor(u64 bits)
      : start((bits & 0x3fff) << 4), leading((bits >> 16 & 0x3fff) << 4),
        stride((bits >> 32 & 0x3fff) << 4), swizzle(bits >> 62 & 3) {}

  // Of element (row of M or N, k). `transposed`: rows, not k, are contiguous.
  u64 address(int row, int k, int bytes, bool transposed) const {
    const int width = swizzle ? 256 >> swizzle : 16;  // bytes of an atom's row; an atom has 8
    if (!transposed) {
      const int at = k * bytes;
      const u64 first = start + row / 8 * stride;
      if (!swizzle) return first + row % 8 * 16 + at / 16 * leading + at % 16;
      return swizzled(first + row % 8 * width + at);
    }
    const int per_row = width / bytes, atom = row / per_row, in = row % per_row * bytes;
    if (!swizzle) return start + atom * stride + k / 8 * leading + k % 8 * 16 + in;
    return swizzled(start + atom * leading + k / 8 * stride + k % 8 * width + in);
  }
  // 16-byte pieces of a row trade places by the number of the row.
  u64 swizzled(u64 address) const {
    return address ^ (address >> 7 & (15 >> swizzle)) << 4;
  }
};

float element(const u8* from, i32 type) {
  u32 bits = 0;
  std::memcpy(&bits, from, type == TF32 ? 4 : 2);
  if (type == TF32) return tf32_to_float(bits);
  return type == BF16 ? bf16_to_float(bits) : half_to_float(bits);
}

// Calls visit(row of A or column of B, k, offset) for each element that a warp reads of one.
template <class Visit>
void for_each_element(const Machine& m, const Warp& w, const Shape& shape, u64 descriptor, bool a,
                      Visit visit) {
  const Descriptor d(descriptor);
  const bool transposed = shape.flags & (a ? A_TRANSPOSED : B_TRANSPOSED);
  const int first = a ? w.id % 4 * ROWS : 0, rows = a ? ROWS : shape.n, bytes = shape.bytes();
  for (int k = 0; k < shape.k; k++)
    for (int row = 0; row < rows; row++) {
      const u64 address = d.address(first + row, k, bytes, transposed);
      visit(row, k, m.shared_offset(w, address, bytes, a ? "wgmma's A" : "wgmma's B"));
    }
}

void note_reads(Machine& m, Warp& w, const Product& product) {
  const Shape shape(*product.instruction);
  const auto note = [&](int, int, u64 at) { m.note_shared_read(w, at, shape.bytes(), true); };
  if (!shape.a_in_registers) for_each_element(m, w, shape, product.a, true, note);
  for_each_element(m, w, shape, product.b, false, note);
}

// A from registers has mma's fragments: 4 registers a lane.
void read_a_registers(Machine& m, Warp& w, const Instruction& i, const Shape& shape, float* a) {
  for (int q = 0; q < 4; q++) {
    const u32* in = m.source_32(w, m.operand(i, 1, q));
    for (int lane = 0; lane < LANES; lane++) {
      float* row = a + (lane / 4 + q % 2 * 8) * shape.k;
      if (shape.type == TF32) {
        row[lane % 4 + q / 2 * 4] = tf32_to_float(in[lane]);
        continue;
      }
      for (int h = 0; h < 2; h++) {
        const u32 bits = in[lane] >> 16 * h & 0xffff;
        row[lane % 4 * 2 + h + q / 2 * 8] =
            shape.type == BF16 ? bf16_to_float(bits) : half_to_float(bits);
      }
    }
  }
}

u64 same_in_all_lanes(Step& s, const Operand& o) {
  const u64* lanes = s.m.source_64(s.w, o);
  if (!std::all_of(lanes, lanes + LANES, [&](u64 d) { return d == lanes[0]; }))
    s.m.fail("wgmma's descriptor differs among lanes, " + Machine::name(s.w));
  return lanes[0];
}

// The four warps must issue the same products in the same order.
void check_group_agrees(Step& s, const Product& p) {
  const std::pair key{s.w.id / 4, s.w.products_issued++};
  const std::pair value{p.a, p.b ^ static_cast<u64>(s.m.pc) << 48};
  if (s.w.cta->issued.try_emplace(key, value).first->second != value)
    s.m.fail("warps of one group issue different wgmma, " + Machine::name(s.w));
}

}  // namespace

void wgmma(Step& s) {
  Machine& m = s.m;
  const Shape shape(s.i);
  if (s.w.cta->warps.size() % 4) m.fail("wgmma needs groups of four warps");
  Product made{&s.i, 0, same_in_all_lanes(s, s.operand(2)),
               m.predicate(s.w, s.operand(3)) != 0};
  if (!shape.a_in_registers) made.a = same_in_all_lanes(s, s.operand(1));
  check_group_agrees(s, made);
  if (!s.w.wgmma_fenced) m.report("wgmma without a wgmma.fence", m.pc, -1, 0, Machine::name(s.w));
  for (int k = 0; made.accumulate && k < s.i.size[0]; k++)
    if (s.w.written_at[s.operand(0, k).index] > s.w.wgmma_fence_at) {
      m.report("wgmma reads a register written since the last wgmma.fence", m.pc, -1, 0,
               Machine::name(s.w));
      break;
    }
  s.w.products.push_back(made);
  // Read any time from now on: noted now, and again when it happens.
  if (m.launch.races >= 2 && m.launch.lazy) note_reads(m, s.w, made);
  if (!m.launch.lazy) m.finish(s.w, s.w.products.back());
}

void Machine::finish(Warp& w, Product& product) {
  if (product.done) return;
  product.done = true;
  const Instruction& i = *product.instruction;
  const Shape shape(i);
  const i32 now = std::exchange(pc, static_cast<i32>(&i - code.instructions));
  std::vector<float> a(ROWS * shape.k), b(shape.k * shape.n);
  const auto value = [&](u64 at) {
    note_shared_read(w, at, shape.bytes(), true);
    return element(w.cta->shared.data() + at, shape.type);
  };
  if (shape.a_in_registers) read_a_registers(*this, w, i, shape, a.data());
  else
    for_each_element(*this, w, shape, product.a, true,
                     [&](int row, int k, u64 at) { a[row * shape.k + k] = value(at); });
  for_each_element(*this, w, shape, product.b, false,
                   [&](int column, int k, u64 at) { b[k * shape.n + column] = value(at); });
  const bool negative = !(shape.flags & A_NEGATED) != !(shape.flags & B_NEGATED);
  std::vector<double> sums(shape.n);
  for (int row = 0; row < ROWS; row++) {
    // Lane 4 (row % 8) + (n % 8) / 2 holds element n, in one of four registers of each 8 columns.
    const auto accumulator = [&](int n) -> u32& {
      const Operand& o = operand(i, 0, n / 8 * 4 + row / 8 * 2 + n % 2);
      return target_32(w, o)[row % 8 * 4 + n % 8 / 2];
    };
    for (int n = 0; n < shape.n; n++)
      sums[n] = product.accumulate ? as_float(accumulator(n)) : 0.0;
    for (int k = 0; k < shape.k; k++) {
      const double left = negative ? -a[row * shape.k + k] : a[row * shape.k + k];
      const float* right = &b[k * shape.n];
      for (int n = 0; n < shape.n; n++) sums[n] += left * right[n];
    }
    for (int n = 0; n < shape.n; n++) accumulator(n) = as_bits(static_cast<float>(sums[n]));
  }
  result.products++;
  pc = now;
}

void wgmma_fence(Step& s) {
  s.w.wgmma_fence_at = s.w.count;
  s.w.wgmma_fenced = true;
}

void commit_products(Step& s) {
  for (Product& p : s.w.products)
    if (p.batch < 0) p.batch = s.w.product_batch;
  s.w.product_batch++;
}

// Modifiers: how many of the last commit groups may stay in flight.
void wait_for_products(Step& s) {
  s.w.wgmma_fenced = false;
  const i32 end = s.w.product_batch - s.i.modifier[0];
  const auto awaited = [&](const Product& p) { return p.batch >= 0 && p.batch < end; };
  for (Product& p : s.w.products)
    if (awaited(p)) s.m.finish(s.w, p);
  std::erase_if(s.w.products, awaited);
}

void proxy_fence(Step& s) {
  s.w.proxy_fences++;
  s.w.proxy_fence_since_barrier = true;
}

// Registers of a product in flight may not be touched; those written now are noted.
void Machine::check_products_in_flight(Warp& w, const Instruction& i) {
  const bool product = TABLE[i.op].execute == wgmma;
  if (product) return;
  const bool writes = TABLE[i.op].execute != store && TABLE[i.op].execute != barrier;
  for (int group = 0; group < i.groups; group++)
    for (int k = 0; k < i.size[group]; k++) {
      const Operand& o = operand(i, group, k);
      if (o.kind != REGISTER_32 && !(o.kind == MEMORY && o.base == REGISTER_32)) continue;
      if (group == 0 && writes && o.kind == REGISTER_32) w.written_at[o.index] = w.count;
      for (const Product& p : w.products)
        for (int z = 0; z < p.instruction->size[0]; z++)
          if (operand(*p.instruction, 0, z).index == o.index)
            report("register of a wgmma in flight is touched", pc,
                   static_cast<i32>(p.instruction - code.instructions), 0, name(w));
    }
}

}  // namespace ptx
