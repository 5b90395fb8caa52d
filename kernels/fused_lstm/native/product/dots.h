// Products of few rows with weights that are read as they lie, along their rows: nothing is packed,
// and bfloat16 is widened in registers, so that half the bytes come from memory.
//
// A row of weights times a row of the left factor is a sum in every lane of a vector; the lanes of
// W such vectors are added up together, transposed, which gives a vector of W columns.
#pragma once

#include "product/step.h"

namespace fused_lstm::FL_ISA {

// --- vectors of T from weights of type E: T itself, or bfloat16 for float ---

// W elements as they lie, of which `width` exist; the rest is zero.
template <class T, class E>
FL_INLINE Vec<T> widened(const E* p, long width) {
  if constexpr (sizeof(E) == sizeof(T)) {
    return load(p, width);
  } else {
#if defined(FL_TARGET) && FL_BYTES == 64
    const __m256i halves = _mm256_maskz_loadu_epi16(lanes_below(min(width, W<T>)), p);
    return (Vec<T>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
#endif
    typename Types<T>::Int bits = {};
    for (long lane = 0; lane < min(width, W<T>); ++lane) bits[lane] = p[lane].bits << 16;
    return (Vec<T>)bits;
  }
}

// The even and the odd lanes of two vectors, one behind the other.
template <class V, int... LANE>
FL_INLINE void separate(V& a, V& b, std::integer_sequence<int, LANE...>) {
#if defined(__clang__) || __GNUC__ >= 12
  const V even = __builtin_shufflevector(a, b, (2 * LANE)...);
  b = __builtin_shufflevector(a, b, (2 * LANE + 1)...);
#else
  typedef decltype(a < b) Index;
  const V even = __builtin_shuffle(a, b, Index{(2 * LANE)...});
  b = __builtin_shuffle(a, b, Index{(2 * LANE + 1)...});
#endif
  a = even;
}

// A vector of weights as vectors of T: itself, or with bfloat16 the even and the odd elements
// apart, for which a shift and a mask are enough. The left factor is taken apart likewise.
template <class T, class E>
struct Piece {
  static constexpr int parts = sizeof(T) / sizeof(E);
  static constexpr long size = parts * W<T>;  // elements
  Vec<T> part[parts];

  FL_INLINE static Piece weights(const E* p) {
    Piece piece;
    if constexpr (parts == 1) {
      piece.part[0] = load(p);
      in_register(piece.part[0]);
    } else {
      typename Types<T>::Int both;
      __builtin_memcpy(&both, p, sizeof both);
      in_register(both);
      piece.part[0] = (Vec<T>)(both << 16);
      piece.part[1] = (Vec<T>)(both & -65536);
    }
    return piece;
  }

  FL_INLINE static Piece left(const T* p) {
    Piece piece;
    FL_UNROLL for (int i = 0; i < parts; ++i) piece.part[i] = load(p + i * W<T>);
    if constexpr (parts == 2) {
      separate(piece.part[0], piece.part[1], std::make_integer_sequence<int, W<T>>{});
    }
    return piece;
  }

  // With 0 for its first `count` elements.
  FL_INLINE Piece without(long count) const {
    typename Types<T>::Int lane, from;
    FL_UNROLL for (int i = 0; i < W<T>; ++i) lane[i] = i * parts, from[i] = count;
    Piece piece;
    FL_UNROLL for (int i = 0; i < parts; ++i) {
      piece.part[i] = lane + i >= from ? part[i] : Vec<T>{};
    }
    return piece;
  }
};

// Vector v's lanes added up, for COUNT of them whose lanes hold 1 / S of a sum each: lane l of the
// result has its share of the (l / S % COUNT)-th sum.
template <int S, class T, int COUNT>
FL_INLINE Vec<T> fold(Vec<T> (&v)[COUNT]) {
  if constexpr (COUNT == 1) {
    return v[0];
  } else {
    Vec<T> half[COUNT / 2];
    FL_UNROLL for (int i = 0; i < COUNT; i += 2) {
      exchange<S>(v[i], v[i + 1], std::make_integer_sequence<int, W<T>>{});
      half[i / 2] = v[i] + v[i + 1];
    }
    return fold<2 * S, T>(half);
  }
}

// --- the products: members as Fma's, with weights as they lie ---

template <class T, class E>
struct Dots {
  using P = Piece<T, E>;
  static constexpr int N = W<T> < 4 ? W<T> : 4;  // rows of weights at once
  // Sums, a piece of each left row and one of weights find a register each; to take bfloat16 apart
  // are needed the vector as it lies, a mask and, where there are 16, one more.
  static constexpr long spare = P::parts == 1 ? 1 : P::parts + 3;
  static constexpr long tallest = (usable - spare) / (N + P::parts);

  // They are read as they lie, too.
  FL_INLINE static Rows<T> ready(const Worker&, const Lane<T>&, Rows<T> left, long, Range) {
    return left;
  }

  // gates[b] = begin + left[b] weight'; a worker has whole blocks of units, the same ones whatever
  // the rows.
  template <class Begin, class End>
  static void gates(const Worker& worker, Rows<T> left, Range rows,
                    const WeightShape& shape, const E* weight, bool backwards,
                    const Begin& begin, const End& end) {
    const long units = shape.units, depth = shape.depth;
    if (rows.end - rows.begin == 1) {
      const long row = rows.begin;
      const auto add = [&](const Sums<T>& tile, long block) {
        const long unit = block * W<T>;
        columns_of(tile, from(left, row), depth, weight + unit * depth, units - unit, units * depth);
      };
      return gates_of_a_row<T>(worker, row, shape, backwards, begin, add, end);
    }
    Vec<T> memory[tallest * tile_gates];
    for_blocks(worker, rows, units, backwards, [&](long height, long unit, long row) {
      const Sums<T> tile{memory, height, shape.gates};
      bring(tile, begin(tile, unit, row));
      columns_of(tile, from(left, row), depth, weight + unit * depth, units - unit, units * depth);
      end(tile, unit, row);
    });
  }

  // out[b] = left[b] weight', weight [columns, depth]: end(tile, first, row) as Fma's.
  template <class End>
  static void columns(const Worker& worker, Rows<T> left, Range rows, long depth,
                      long columns, const E* weight, const End& end) {
    Vec<T> memory[tallest];
    for_blocks(worker, rows, columns, false, [&](long height, long column, long row) {
      const Sums<T> tile{memory, height, 1};
      clear(tile);
      columns_of(tile, from(left, row), depth, weight + column * depth, columns - column,
                 W<T> * depth);
      end(tile, column / W<T>, row);
    });
  }

 private:
  FL_INLINE static Rows<T> from(Rows<T> left, long row) {
    return {left.data + row * left.stride, left.stride};
  }

  // body(height, column, row) for this worker's blocks of W columns and the tiles of rows in each.
  template <class Body>
  FL_INLINE static void for_blocks(const Worker& worker, Range rows, long columns, bool backwards,
                                   const Body& body) {
    const Range mine = part(blocks_of<T>(columns), worker.id, worker.count);
    const Range tiles = {0, divide_up(rows.end - rows.begin, tallest)};
    for (long i = mine.begin; i < mine.end; ++i) {
      const long block = backwards ? mine.begin + mine.end - 1 - i : i;
      for_heights(tallest, Share{block, 1, tiles}, rows, [&](long height, long row) {
        body(height, block * W<T>, row);
      });
    }
  }

  // tile[r][gate][lane] += left[r] . weight[gate][lane], of W rows of each gate's weights, of which
  // `exist` are there. `next`: elements from a gate's weights to what is read after them, the next
  // gate's.
  FL_INLINE static void columns_of(const Sums<T>& tile, Rows<T> left, long depth, const E* weight,
                                   long exist, long next) {
    with_constant<tallest>(tile.rows, [&](auto height) {
      columns_of_rows<decltype(height)::value>(tile.data, tile.vectors, left.data, left.stride,
                                               depth, weight, exist, next);
    });
  }

  template <int R>
  __attribute__((noinline)) static void columns_of_rows(Vec<T>* sums, long gates, const T* data,
                                                        long stride, long depth, const E* weight,
                                                        long exist, long next) {
    const Rows<T> left{data, stride};
    constexpr int groups = W<T> / N;
    for (long gate = 0; gate < gates; ++gate, weight += next) {
      Vec<T> folded[R][groups];
      for (int group = 0; group < groups; ++group) {
        const E* const own = weight + group * N * depth;
        Tile<T, R, N> tile;
        clear(tile);
        if (group * N < exist) {
          multiply(tile, left, depth, own, exist - group * N,
                   group + 1 < groups ? own + N * depth : weight + next);
        }
        FL_UNROLL for (int r = 0; r < R; ++r) folded[r][group] = fold<1, T>(tile.sum[r]);
      }
      FL_UNROLL for (int r = 0; r < R; ++r) sums[r * gates + gate] += fold<N, T>(folded[r]);
    }
  }

  // tile[r][n] = left[r] . weight[n], a share of it in each lane; `exist` of N rows are there. The
  // tile is clear.
  template <int R>
  FL_INLINE static void multiply(Tile<T, R, N>& tile, Rows<T> left, long depth, const E* weight,
                                 long exist, const E* next) {
    const auto at = [&](int n) { return min(n, exist - 1) * depth; };
    long k = 0;
    for (; k + P::size <= depth; k += P::size) {
      P own[R];
      FL_UNROLL for (int r = 0; r < R; ++r) own[r] = P::left(left.data + r * left.stride + k);
      FL_UNROLL for (int n = 0; n < N; ++n) {
        __builtin_prefetch(next + at(n) + k);  // worth a fifth where weights come from afar
        add(tile, n, own, P::weights(weight + at(n) + k));
      }
    }
    if (k == depth) return;
    if (depth >= P::size) {  // the last ones, less those that were there before
      const long last = depth - P::size, done = k - last;
      P own[R];
      FL_UNROLL for (int r = 0; r < R; ++r) {
        own[r] = P::left(left.data + r * left.stride + last).without(done);
      }
      FL_UNROLL for (int n = 0; n < N; ++n) {
        add(tile, n, own, P::weights(weight + at(n) + last).without(done));
      }
    } else {
      Tile<T, R, N> few;
      multiply_few(few, left, depth, weight, exist);
      tile = few;
    }
  }

  // Multiplies less than a piece, beginning with 0. Apart: or loops around it are compiled twice.
  template <int R>
  __attribute__((noinline)) static void multiply_few(Tile<T, R, N>& tile, Rows<T> left, long depth,
                                                     const E* weight, long exist) {
    clear(tile);
    for (long first = 0; first < depth; first += W<T>) {
      Vec<T> own[R];
      FL_UNROLL for (int r = 0; r < R; ++r) {
        own[r] = load(left.data + r * left.stride + first, depth - first);
      }
      FL_UNROLL for (int n = 0; n < N; ++n) {
        const E* const row = weight + min(n, exist - 1) * depth;
        const Vec<T> weights = widened<T>(row + first, depth - first);
        FL_UNROLL for (int r = 0; r < R; ++r) tile.sum[r][n] += own[r] * weights;
      }
    }
  }

  template <int R>
  FL_INLINE static void add(Tile<T, R, N>& tile, int n, const P (&left)[R], const P& weights) {
    FL_UNROLL for (int r = 0; r < R; ++r) {
      FL_UNROLL for (int i = 0; i < P::parts; ++i) {
        tile.sum[r][n] += left[r].part[i] * weights.part[i];
      }
    }
  }
};

}  // namespace fused_lstm::FL_ISA
