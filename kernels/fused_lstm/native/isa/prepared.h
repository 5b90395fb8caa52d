// Weights that were packed before the call, of float32, bfloat16 or int8 (see product/words.h and
// fused_lstm/inference/prepare.py, which packs them).
#pragma once

#include "isa/caches.h"
#include "isa/kernels.h"

namespace fused_lstm {

// A matrix [gates * units, depth]. Its columns lie in blocks of 16 units of every gate. A word is what
// 4 bytes hold of a column: 1, 2 or 4 elements along k. [blocks][words][gates][16 units][word]. What
// does not exist is 0. Of bfloat16 and int8 words are whole registers of a matrix unit, 16 each.
//
// Gates of float32 may lie apart, [blocks][gates][words][16 units][word], as they are read where a vector
// holds fewer units: one after another, each from one line of the cache to the next. (24 calls on a Zen 3,
// of 1 to 200 rows and 16 to 1584 units, then take 0.57 to 1.02 times as long on one thread and two, but two
// small ones on one thread 1.05 and 1.09.) Every CPU reads either.
struct PreparedMatrix {
  const uint8_t* panels;
  bool apart;
  // For int8: sums of a column's weights times the left factor's zero point, and the column's scale,
  // [blocks][gates][16].
  const int32_t* sums;
  const float* scales;
  // Scratch: for each worker the left factor's rows, `left_size` bytes. Not of float32.
  uint8_t* left;
  long left_size;
  long ahead;      // see ahead_of
  long unit_rows;  // see unit_rows
};

// A lane's weights: shapes as in Lane.
struct PreparedWeights {
  PreparedMatrix w_ih, w_hh, w_hr, w_inner[InnerProducts::most];
};

// With int8 the left factor is bytes too; with int8_weights it is float32.
enum class Prepared { float32, bfloat16, int8, int8_weights };

namespace prepared {

constexpr long lanes = 16;        // of a block
constexpr long word = 4;          // bytes
constexpr long zero_point = 128;  // of a left factor of bytes

// Rows from which on a product is a matrix unit's, where there is one: with fewer its registers of rows
// are mostly empty. In bfloat16 two rows then gain up to 1.8 times, and 64 up to 3.8 (an Intel Xeon);
// where weights from beyond the L2 cache are read `once`, by a call of one step, vectors fetch them ahead
// and fewer rows than four lose a tenth. Bytes, which vectors multiply four times as fast, need more rows,
// and most of all where a column is few registers: of 200 bytes 20 rows lose a twelfth, and of 650 they
// gain a fifth.
constexpr long unit_rows(Prepared kind, long depth, bool once) {
  return kind == Prepared::bfloat16 ? (once ? 4 : 2) : depth < 512 ? 32 : 16;
}

// Rows from which on a product of float32 is made in a layer's own tiles, where its panels lie as a
// layer packs them: they are taller, and their sums begin where x's part lies. Fewer rows wait for
// weights, which are fetched ahead (an Emerald Rapids: 8 rows of H = 1024 would take 1.03 times as long in
// a layer's tiles, 16 take 0.92, of a GRU 0.84). Weights that are near come at once (a Zen 4, 2 to 10 rows:
// H = 16 takes 0.84 to 0.96 times as long, H = 64 0.95 to 0.98, H = 100 to 256 in the median 0.92, on two
// threads 0.98).
constexpr long near_weights = 1 << 20;  // bytes
constexpr long many_rows(long bytes) { return bytes <= near_weights ? 2 : 12; }

constexpr bool of_bytes(Prepared kind) {
  return kind == Prepared::int8 || kind == Prepared::int8_weights;
}

inline long elements_of(Prepared kind) {  // of a word
  return of_bytes(kind) ? 4 : kind == Prepared::bfloat16 ? 2 : 1;
}

inline long words_of(Prepared kind, long depth) {
  return (depth + elements_of(kind) - 1) / elements_of(kind);
}

inline long stored_words(Prepared kind, long depth) {
  const long words = words_of(kind, depth);
  return kind == Prepared::float32 ? words : (words + lanes - 1) / lanes * lanes;
}

// Returns the bytes of the left factor that meet one word of weights.
constexpr long left_word(Prepared kind) { return kind == Prepared::int8_weights ? 4 * word : word; }

inline long blocks_of(long units) { return (units + lanes - 1) / lanes; }

inline long panel_bytes(Prepared kind, const WeightShape& shape) {  // of a block
  return stored_words(kind, shape.depth) * shape.gates * lanes * word;
}

// Returns the bytes of a matrix: its panels, and with int8 sums and scales.
inline long bytes_of(Prepared kind, const WeightShape& shape) {
  const long more = of_bytes(kind) ? shape.gates * lanes * 8 : 0;
  return blocks_of(shape.units) * (panel_bytes(kind, shape) + more);
}

// Returns the bytes of a row of the left factor, an odd number of cache lines; where it is bytes, each
// row's scale lies behind all rows.
inline long left_stride(Prepared kind, long depth) {
  return ((words_of(kind, depth) * left_word(kind) + 63) / 64 | 1) * 64;
}
inline long left_bytes(Prepared kind, long rows, long depth) {
  return kind == Prepared::float32 ? 0 : (rows * (left_stride(kind, depth) + 4) + 63) / 64 * 64;
}

// Words from a gate of a block to the next one, and from a word along k.
struct Strides {
  long gate, k;
};
inline Strides strides_of(Prepared kind, bool apart, const WeightShape& shape) {
  return apart ? Strides{stored_words(kind, shape.depth) * lanes, lanes} : Strides{lanes, shape.gates * lanes};
}

// Returns the matrix that lies in `packed`, without scratch.
inline PreparedMatrix matrix_of(Prepared kind, const uint8_t* packed, bool apart, const WeightShape& shape) {
  const long blocks = blocks_of(shape.units), count = blocks * shape.gates * lanes;
  const auto* const sums =
      reinterpret_cast<const int32_t*>(packed + blocks * panel_bytes(kind, shape));
  return {packed, apart, sums, reinterpret_cast<const float*>(sums + count), nullptr, 0, 0, 0};
}

// How far ahead of what it reads a product of few rows fetches, in bytes, where a worker reads so many
// bytes of weights a step; 0: it does not.
long ahead_of(const Cpu& cpu, long bytes);
long ahead_here(long bytes);  // on this CPU

}  // namespace prepared

// A forward pass of one lane; what its own weights are is not used.
using PreparedSweep = PhasedSweep<float, PreparedWeights>;

struct Isa;

// For an instruction set and a call whose largest product has so many rows: the best on this CPU.
PreparedSweep prepared_sweep(const Isa& isa, Prepared kind, long rows);

}  // namespace fused_lstm
