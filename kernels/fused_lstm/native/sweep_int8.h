// A lane's forward pass with weights of int8. A row of the left factor, x or h, is made bytes when a
// product begins, with a scale of its own; products of bytes are summed in int32, exactly, and the
// cell is float32's.
#pragma once

#include "isa/int8.h"
#include "sweep_forward.h"

namespace fused_lstm::FL_ISA {

using Int = Types<float>::Int;

// --- products of four bytes along k ---

// Four bytes of the left factor in every lane, and what a lane of weights is multiplied with it.
#if defined(FL_VNNI)
struct Left4 {
  __m512i bytes;
};
struct Right4 {
  __m512i bytes;
};
FL_INLINE Left4 left4(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof four);
  return {_mm512_set1_epi32(four)};
}
FL_INLINE Right4 right4(const int8_t* p) { return {_mm512_loadu_si512(p)}; }
FL_INLINE Int dot4(Int sum, Left4 a, Right4 b) {
  return (Int)_mm512_dpbusd_epi32((__m512i)sum, a.bytes, b.bytes);
}
constexpr long tallest_int8 = 6;
#elif defined(FL_TARGET) && FL_BYTES == 32
// As pairs of 16 bits: of bytes themselves, a pair's sum would be cut at 16 bits.
struct Left4 {
  __m256i even, odd;
};
struct Right4 {
  __m256i even, odd;
};
FL_INLINE Left4 left4(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, sizeof four);
  const __m256i all = _mm256_set1_epi32(four);
  return {_mm256_and_si256(all, _mm256_set1_epi16(255)), _mm256_srli_epi16(all, 8)};
}
FL_INLINE Right4 right4(const int8_t* p) {
  const __m256i all = _mm256_loadu_si256((const __m256i*)p);
  return {_mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8), _mm256_srai_epi16(all, 8)};
}
FL_INLINE Int dot4(Int sum, Left4 a, Right4 b) {
  const __m256i pairs =
      _mm256_add_epi32(_mm256_madd_epi16(a.even, b.even), _mm256_madd_epi16(a.odd, b.odd));
  return (Int)_mm256_add_epi32((__m256i)sum, pairs);
}
constexpr long tallest_int8 = 2;
#else
struct Left4 {
  int32_t part[4];
};
struct Right4 {
  Int bytes;
};
FL_INLINE Left4 left4(const uint8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
FL_INLINE Right4 right4(const int8_t* p) {
  Right4 right;
  __builtin_memcpy(&right, p, sizeof right);
  return right;
}
FL_INLINE Int dot4(Int sum, Left4 a, Right4 b) {
  FL_UNROLL for (int i = 0; i < 4; ++i) sum += ((b.bytes << (24 - 8 * i)) >> 24) * a.part[i];
  return sum;
}
constexpr long tallest_int8 = 2;
#endif

// --- the left factor's bytes ---

// Returns a row's scale: x = scale * (byte - zero_point). NaN where x has what is not finite.
FL_INLINE float to_bytes(const float* x, long depth, uint8_t* bytes) {
  typedef uint8_t Bytes __attribute__((vector_size(W<float>)));
  constexpr float round = Types<float>::round;
  Vec<float> most = {};
  Int infinite = {};
  for (long k = 0; k < depth; k += W<float>) {
    const Vec<float> v = load(x + k, depth - k), size = v < 0 ? -v : v;
    infinite |= ~(Int)(size <= broadcast(3.40282347e38f));
    most = size > most ? size : most;
  }
  float largest = 0;
  int32_t any = 0;
  for (int lane = 0; lane < W<float>; ++lane) {
    largest = most[lane] > largest ? most[lane] : largest;
    any |= infinite[lane];
  }
  const float scale = largest / 127, inverse = largest > 0 ? 127 / largest : 0;
  for (long k = 0; k < depth; k += W<float>) {
    const Vec<float> v = load(x + k, depth - k) * inverse + (round + int8::zero_point);
    const Bytes made = __builtin_convertvector((Int)v, Bytes);
    __builtin_memcpy(bytes + k, &made, sizeof made);
  }
  return any ? __builtin_nanf("") : scale;
}

// Products as `Fma`'s and `Dots`', for step_forward and project.
struct Int8 {
  template <int GATES, class Begin, class End>
  FL_INLINE static void gates(const Worker& worker, Rows<float> left, Range rows,
                              const WeightShape& shape, const Int8Matrix* weight, bool backwards,
                              const Begin& begin, const End& end) {
    const long depth = shape.depth, stride = int8::left_stride(depth);
    const long count = rows.end - rows.begin, panel_bytes = int8::panel_bytes(shape);
    uint8_t* const bytes = weight->left + worker.id * weight->left_size;
    float* const scales = reinterpret_cast<float*>(bytes + count * stride);
    // Each worker makes all of them, which takes less than to wait for each other.
    for (long b = 0; b < count; ++b) {
      scales[b] = to_bytes(left.data + (rows.begin + b) * left.stride, depth, bytes + b * stride);
    }
    const Range mine = part(int8::blocks_of(shape.units), worker.id, worker.count);
    for (long i = mine.begin; i < mine.end; ++i) {
      const long block = backwards ? mine.begin + mine.end - 1 - i : i;
      for (long lane = 0; lane < int8::lanes; lane += W<float>) {
        const long unit = block * int8::lanes + lane;
        if (unit >= shape.units) break;
        const int8_t* const panel = weight->panels + block * panel_bytes + lane * 4;
        const long at = block * GATES * int8::lanes + lane;
        const Share share{block, 1, {0, divide_up(count, tallest_int8)}};
        for_heights<tallest_int8>(share, rows, [&](auto height, long row) {
          constexpr int R = decltype(height)::value;
          const long b = row - rows.begin;
          Tile<float, R, GATES> tile;
          begin(tile, unit, row);
          add_product(tile, bytes + b * stride, scales + b, stride, depth, panel,
                      weight->sums + at, weight->scales + at);
          end(tile, unit, row);
        });
      }
    }
  }

  template <class End>
  FL_INLINE static void columns(const Worker& worker, Rows<float> left, Range rows, long depth,
                                long columns, const Int8Matrix* weight, const End& end) {
    gates<1>(worker, left, rows, {1, columns, depth}, weight, false,
             [](auto& tile, long, long) { clear(tile); },
             [&](const auto& tile, long column, long row) { end(tile, column / W<float>, row); });
  }

 private:
  template <int R, int GATES>
  FL_INLINE static void add_product(Tile<float, R, GATES>& tile, const uint8_t* left,
                                    const float* left_scales, long stride, long depth,
                                    const int8_t* panel, const int32_t* zeros,
                                    const float* scales) {
    Int sum[R][GATES] = {};
    for (long k = 0; k < depth; k += 4, panel += GATES * int8::lanes * 4) {
      Left4 a[R];
      FL_UNROLL for (int r = 0; r < R; ++r) a[r] = left4(left + r * stride + k);
      FL_UNROLL for (int gate = 0; gate < GATES; ++gate) {
        const Right4 b = right4(panel + gate * int8::lanes * 4);
        FL_UNROLL for (int r = 0; r < R; ++r) sum[r][gate] = dot4(sum[r][gate], a[r], b);
      }
      FL_UNROLL for (int r = 0; r < R; ++r) {
        FL_UNROLL for (int gate = 0; gate < GATES; ++gate) asm("" : FL_REGISTER(sum[r][gate]));
      }
    }
    FL_UNROLL for (int gate = 0; gate < GATES; ++gate) {
      Int zero;
      __builtin_memcpy(&zero, zeros + gate * int8::lanes, sizeof zero);
      const Vec<float> scale = load(scales + gate * int8::lanes);
      FL_UNROLL for (int r = 0; r < R; ++r) {
        const Vec<float> made = __builtin_convertvector(sum[r][gate] - zero, Vec<float>);
        tile.sum[r][gate] += made * (scale * left_scales[r]);
      }
    }
  }
};

template <int GATES>
void int8_gates(const Worker& worker, const Lane<float>& lane, const Int8Weights& weights) {
  for (long begin = 0; begin < lane.steps; begin += lane.chunk) {
    const long end = min(begin + lane.chunk, lane.steps);
    const Range rows = rows_of(lane, begin, end);
    // No meeting before the steps: a worker has the same units in both.
    Int8::gates<GATES>(
        worker, Rows<float>{lane.x + rows.begin * lane.inputs, lane.inputs},
        {0, rows.end - rows.begin}, input_shape(lane), &weights.w_ih, false,
        [&](auto& tile, long unit, long) { load_bias<GATES>(tile, lane, unit); },
        [&](const auto& tile, long unit, long row) {
          store_gates<GATES>(tile, lane.input_part + row * lane.input_stride + unit,
                             lane.input_stride, lane.hidden, lane.hidden - unit);
        });
    for (long place = begin; place < end; ++place) {
      const float* const x =
          lane.input_part + (row_of(lane, place) - rows.begin) * lane.input_stride;
      step_forward<Int8, GATES>(worker, lane, place, x, &weights.w_hh);
      worker.sync();
      if (!weights.w_hr.panels) continue;
      project<Int8>(worker, lane, place, &weights.w_hr);
      worker.sync();
    }
  }
}

inline void int8_lane(const Worker& worker, const Lane<float>& lane, const Int8Weights& weights) {
  with_gates(lane, [&](auto gates) { int8_gates<gates.value>(worker, lane, weights); });
}

extern const Int8Sweep int8_sweep;
constexpr Int8Sweep int8_sweep = int8_lane;

}  // namespace fused_lstm::FL_ISA
