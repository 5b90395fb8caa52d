// Sizes that follow from an instruction set's registers and caches: the shapes of tiles, and the
// parts that a product is made in. The only place that knows either.
#pragma once

#include "isa/caches.h"
#include "isa/kernels.h"
#include "isa/simd.h"

namespace fused_lstm::FL_ISA {

constexpr long min(long a, long b) { return a < b ? a : b; }
constexpr long max(long a, long b) { return a > b ? a : b; }
constexpr long divide_up(long a, long b) { return (a + b - 1) / b; }

// --- registers ---

// R x N sums, a scalar and N vectors of the panel find a register each: a tile that reads a vector again
// for each row makes 176 GF/s of 206 on an Intel Xeon, which can begin two multiply-adds in a cycle and two
// loads. Of 16 registers one is missing where N is 4, or R would be 2.
#if defined(FL_UNIT)
constexpr int registers = 8;  // of 16 rows, and four are sums
#elif FL_BYTES == 64 || defined(__aarch64__)
constexpr int registers = 32;
#else
constexpr int registers = 16;
#endif
#if FL_BYTES > 16 || defined(__aarch64__)
constexpr int usable = registers;
#else
constexpr int usable = registers - 1;  // without FMA: a product needs one before it is added
#endif

constexpr long max_vectors = 4;
#if defined(FL_UNIT)  // two registers of rows
constexpr Shape tile_of(long vectors) { return {32, vectors}; }
#else
constexpr Shape tile_of(long vectors) {
  return {(registers == 32 ? 31 : registers) / vectors - 1, vectors};
}
#endif

// 9 x 3 or 4 x 3. Rows that are not made ready are split into terms by each tile: of two registers for
// every two columns anew.
#if defined(FL_TERMS)
constexpr Shape plain_tile = {16, 4};
#else
constexpr Shape plain_tile = tile_of(registers == 8 ? 4 : 3);
#endif
// A vector for each gate of a block of units: 6 x 4 or 3 x 4 of four gates, 9 x 3 or 4 x 3 of three.
// Of one gate a few blocks lie abreast.
constexpr Shape gates_tile(long gates) { return gates > 1 ? tile_of(gates) : plain_tile; }
constexpr long blocks_abreast(long gates) { return gates_tile(gates).vectors / gates; }
// Rows of the tallest tile of so many vectors, and the vectors of the largest tile.
constexpr long tallest_of(long vectors) {
  const long of_gates = vectors > 1 ? gates_tile(vectors).rows : 1;
  return vectors <= plain_tile.vectors ? max(of_gates, plain_tile.rows) : of_gates;
}
// Rows that lie side by side in a vector of the left-hand factor: 8 x 3, 4 x 3 or less.
#if defined(FL_UNIT)
template <class T>
constexpr Shape transposed_tile = {16, 4};
#else
template <class T>
constexpr long transposed_rows = min(W<T>, registers / 4);
template <class T>
constexpr Shape transposed_tile = {transposed_rows<T>,
                                   min(registers / (transposed_rows<T> + 1), max_vectors)};
#endif

// Blocks of units of a single row that a cell finishes at once.
constexpr long one_row = 8;

constexpr long most_gates = 8;  // of a cell
constexpr long tile_gates = 4;  // that a tile of registers holds
#if defined(FL_UNIT)
constexpr long largest_tile = 128;  // vectors
#else
constexpr long largest_tile = 32;
#endif

// --- caches ---

template <class T>
constexpr long line = 64 / sizeof(T);  // of the cache
template <class T>
constexpr long vector_bytes = FL_BYTES / deep<T>;  // of W elements

// The rows of a panel that are packed at once: 64 bytes x 4 x 1536 is a third of a 1 MiB L2 cache.
// A row is one step of k or, of pairs, two.
constexpr long panel_rows = 1536;
template <class T>
constexpr long panel_depth = panel_rows * deep<T>;
// Tiles of 16 registers read more for each multiply-add than those of 32, so they gain more by what
// is near. Measured on a Zen 4 with 1 MiB of L2: with AVX-512 these parts cost 4 percent where the
// left-hand factor fits the last-level cache, and fetching ahead as much, or more.
constexpr bool reads_little = registers == 32;  // for each multiply-add
// The part of a large product's left-hand factor that stays in the L2 cache, or near it, while all
// columns pass by: `part_bytes`, of `part_depth` in k, so that a panel stays in the L1 cache. If
// that factor is transposed, the same k is a range of rows, and larger parts are better.
constexpr long part_bytes = reads_little ? 8 << 20 : 1 << 20;
template <class T>
constexpr long part_depth = (reads_little ? panel_rows : 256) * deep<T>;
constexpr long transposed_bytes = reads_little ? 8 << 20 : 2 << 20;
template <class T>
constexpr long transposed_depth = (reads_little ? panel_rows : 768) * deep<T>;
// How panels are fetched that are packed for all steps.
FL_INLINE const Fetching& fetching() { return fetching_here[reads_little]; }

template <class T>
constexpr long panel_size = panel_depth<T> * max_vectors * W<T>;

// For the plan, which prints them.
template <class T>
constexpr Shapes shapes = {W<T>, registers, gates_tile(4), plain_tile, transposed_tile<T>,
                           panel_size<T>, transposed_depth<T>};

}  // namespace fused_lstm::FL_ISA
