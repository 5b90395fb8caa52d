// Products with weights that were packed before the call, of float32, bfloat16 or int8 (see
// isa/prepared.h). They are made of words of 4 bytes. A row of the left factor, x or h, is rounded to
// bfloat16, or to bytes with a scale of its own, when a product begins; with int8_weights it stays
// float32. Products of bytes are summed in int32, exactly, all others in float32, as the cell is.
#pragma once

#include "isa/prepared.h"
#include "product/step.h"

namespace fused_lstm::FL_ISA {

using Int = Types<float>::Int;

FL_INLINE int32_t word_at(const uint8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

// A product of a word is made in `parts`: of all its elements at once, or one after another.

// Two factors of one element, and their sums.
struct Float32 {
  static constexpr Prepared kind = Prepared::float32;
  static constexpr long tallest = FL_BYTES == 64 ? 6 : FL_BYTES == 32 ? 3 : 2;
  using Sums = Vec<float>;
  using Left = Vec<float>;
  using Right = Vec<float>;
  static constexpr int parts = 1;
  FL_INLINE static Left left(const uint8_t* word, int) {
    return broadcast(__builtin_bit_cast(float, word_at(word)));
  }
  FL_INLINE static Right right(const uint8_t* words, int) {
    return load(reinterpret_cast<const float*>(words));
  }
  FL_INLINE static Sums dot(Sums sum, Left a, Right b) { return sum + a * b; }
};

// Four bytes along k of the weights, and of the left factor as many of float32.
struct Int8Weights {
  static constexpr Prepared kind = Prepared::int8_weights;
  static constexpr long tallest = FL_BYTES == 64 ? 4 : FL_BYTES == 32 ? 2 : 1;
  using Sums = Vec<float>;
  using Left = Vec<float>;
  using Right = Vec<float>;
  static constexpr int parts = 4;
  FL_INLINE static Left left(const uint8_t* word, int part) {
    return Float32::left(word + part * prepared::word, 0);
  }
  FL_INLINE static Right right(const uint8_t* words, int part) {
    Int all;
    __builtin_memcpy(&all, words, sizeof all);
    return __builtin_convertvector((all << (24 - 8 * part)) >> 24, Vec<float>);
  }
  FL_INLINE static Sums dot(Sums sum, Left a, Right b) { return sum + a * b; }
};

// Pairs along k: the lower half of a word is the first one.
struct Bfloat16 {
  static constexpr Prepared kind = Prepared::bfloat16;
  static constexpr int parts = 1;
  using Sums = Vec<float>;
#if defined(FL_BF16) && !defined(FL_EMULATED)
  static constexpr long tallest = 6;
  using Left = __m512i;
  using Right = __m512i;
  FL_INLINE static Left left(const uint8_t* word, int) {
    return _mm512_set1_epi32(word_at(word));
  }
  FL_INLINE static Right right(const uint8_t* words, int) { return _mm512_loadu_si512(words); }
  FL_INLINE static Sums dot(Sums sum, Left a, Right b) {
    return (Sums)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  }
#else
  static constexpr long tallest = FL_BYTES == 64 ? 4 : 2;
  struct Left {
    Vec<float> first, second;
  };
  using Right = Left;
  FL_INLINE static Left left(const uint8_t* word, int) {
    const uint32_t pair = word_at(word);
    return {broadcast(__builtin_bit_cast(float, pair << 16)),
            broadcast(__builtin_bit_cast(float, pair & 0xffff0000u))};
  }
  FL_INLINE static Right right(const uint8_t* words, int) {
    Int pairs;
    __builtin_memcpy(&pairs, words, sizeof pairs);
    return {(Vec<float>)(pairs << 16), (Vec<float>)(pairs & -65536)};
  }
  FL_INLINE static Sums dot(Sums sum, Left a, Right b) {
    return sum + a.first * b.first + a.second * b.second;
  }
#endif
};

// Four bytes along k: of the left factor 0 to 255, of which 128 is its zero, and of the weights -127 to
// 127.
struct Int8 {
  static constexpr Prepared kind = Prepared::int8;
  static constexpr int parts = 1;
  using Sums = Int;
#if defined(FL_VNNI)
  static constexpr long tallest = 6;
  using Left = __m512i;
  using Right = __m512i;
  FL_INLINE static Left left(const uint8_t* word, int) {
    return _mm512_set1_epi32(word_at(word));
  }
  FL_INLINE static Right right(const uint8_t* words, int) { return _mm512_loadu_si512(words); }
  FL_INLINE static Sums dot(Sums sum, Left a, Right b) {
    return (Int)_mm512_dpbusd_epi32((__m512i)sum, a, b);
  }
#elif defined(FL_TARGET) && FL_BYTES == 32
  // Multiplied as pairs of 16 bits: a sum of two products of bytes would be cut at 16 bits.
  static constexpr long tallest = 2;
  struct Left {
    __m256i even, odd;
  };
  using Right = Left;
  FL_INLINE static Left left(const uint8_t* word, int) {
    const __m256i all = _mm256_set1_epi32(word_at(word));
    return {_mm256_and_si256(all, _mm256_set1_epi16(255)), _mm256_srli_epi16(all, 8)};
  }
  FL_INLINE static Right right(const uint8_t* words, int) {
    const __m256i all = _mm256_loadu_si256((const __m256i*)words);
    return {_mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8), _mm256_srai_epi16(all, 8)};
  }
  FL_INLINE static Sums dot(Sums sum, Left a, Right b) {
    const __m256i pairs =
        _mm256_add_epi32(_mm256_madd_epi16(a.even, b.even), _mm256_madd_epi16(a.odd, b.odd));
    return (Int)_mm256_add_epi32((__m256i)sum, pairs);
  }
#else
  static constexpr long tallest = 2;
  struct Left {
    int32_t part[4];
  };
  using Right = Int;
  FL_INLINE static Left left(const uint8_t* word, int) {
    return {{word[0], word[1], word[2], word[3]}};
  }
  FL_INLINE static Right right(const uint8_t* words, int) {
    Right all;
    __builtin_memcpy(&all, words, sizeof all);
    return all;
  }
  FL_INLINE static Sums dot(Sums sum, Left a, Right b) {
    FL_UNROLL for (int i = 0; i < 4; ++i) sum += ((b << (24 - 8 * i)) >> 24) * a.part[i];
    return sum;
  }
#endif
};

// --- the left factor's words ---

// Rounds to nearest even; every NaN stays one.
FL_INLINE void to_bfloat16(const float* x, long depth, uint8_t* words) {
#if defined(FL_BF16)  // which takes what is subnormal for 0, as its products do
  for (long k = 0; k < depth; k += W<float>) {
    const auto made = narrowed(load(x + k, depth - k));
    __builtin_memcpy(words + 2 * k, &made, sizeof made);
  }
#else
  typedef uint32_t Bits __attribute__((vector_size(FL_BYTES)));
  typedef uint16_t Halves __attribute__((vector_size(FL_BYTES / 2)));
  for (long k = 0; k < depth; k += W<float>) {
    const Bits bits = (Bits)load(x + k, depth - k);
    const Bits nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Bits half = (bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : nearest;
    const Halves made = __builtin_convertvector(half, Halves);
    __builtin_memcpy(words + 2 * k, &made, sizeof made);
  }
#endif
}

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
    const Vec<float> v = load(x + k, depth - k) * inverse + (round + prepared::zero_point);
    const Bytes made = __builtin_convertvector((Int)v, Bytes);
    __builtin_memcpy(bytes + k, &made, sizeof made);
  }
  return any ? __builtin_nanf("") : scale;
}

// A part of a block's weights that the L1 cache keeps while tiles take turns.
constexpr long near_bytes = 16 << 10;

// Products as `Fma`'s and `Dots`', for step_forward and project.
template <class F>
struct Ready {
  // Panels lie as a layer packs them, where gates are not apart.
  static constexpr bool has_tiles = FL_BYTES == 64 && F::kind == Prepared::float32;
  // Whether `gates_of_two` serves these weights.
#if defined(FL_UNIT)
  static constexpr bool makes_two = F::kind == Prepared::bfloat16;
#else
  static constexpr bool makes_two = F::kind == Prepared::float32;
#endif
  // Vectors that hold a gate's units of a block. They are multiplied together, so that whole lines of the
  // cache are read: of AVX2, two.
  static constexpr long slices = prepared::lanes / W<float>;

  FL_INLINE static Rows<float> ready(const Worker&, const Lane<float>&, Rows<float> left,
                                     long, Range, long = 0) {
    return left;
  }

  template <class Begin, class End>
  static void gates(const Worker& worker, Rows<float> left, Range rows,
                    const WeightShape& shape, const PreparedMatrix* weight,
                    bool backwards, const Begin& begin, const End& end) {
    const long count = rows.end - rows.begin;
    if constexpr (has_tiles) {
      const long bytes = prepared::blocks_of(shape.units) * prepared::panel_bytes(F::kind, shape);
      if (!weight->apart && shape.gates > 1 && count >= prepared::many_rows(bytes)) {
        return Fma<float>::gates(worker, left, rows, shape, (const float*)weight->panels, backwards,
                                 begin, end);
      }
    }
    const Factor factor = words_of(worker, left, rows, shape.depth, *weight);
    const long words = prepared::words_of(F::kind, shape.depth);
    const long panel_bytes = prepared::panel_bytes(F::kind, shape);
    const long blocks = prepared::blocks_of(shape.units);
#if defined(FL_UNIT)
    if (count >= weight->unit_rows) {
      return for_unit_tiles(worker, rows, shape, backwards, [&](const Sums<float>& tile, long block, long row) {
        bring(tile, begin(tile, block * W<float>, row));
        add_by_unit(tile, factor, row - rows.begin, shape, block, *weight);
        end(tile, block * W<float>, row);
      });
    }
#endif
    const prepared::Strides strides = prepared::strides_of(F::kind, weight->apart, shape);
    const auto product_of = [&](long block) {
      return Product{factor, rows.begin, words, weight->panels + block * panel_bytes, strides, *weight,
                     block * shape.gates * prepared::lanes};
    };
    if (count == 1 && (slices > 1 || !weight->apart)) {
      const auto add = [&](const Sums<float>& tile, long first) {
        const Product product = product_of(first / slices);
        typename F::Sums sums[slices * tile_gates];
        add_words(sums, 1, shape.gates, product, rows.begin, {0, words}, weight->ahead);
        for (long slice = 0; slice < tile.abreast; ++slice) {
          add_sums({tile.data + slice * shape.gates, 1, shape.gates}, sums, product, rows.begin, slice);
        }
      };
      return gates_of_a_row<float, slices>(worker, rows.begin, shape, backwards, begin, add, end);
    }
    if constexpr (F::kind == Prepared::float32) {
      if (slices > 1 || weight->apart) {
        return for_block_tiles(worker, rows, shape, backwards, [&](const BlockTiles& tiles, long row) {
          Place<float> from[slices] = {};
          tiles.each([&](long slice, const Sums<float>& tile, long unit) { from[slice] = begin(tile, unit, row); });
          tiles.add(from, left, row, shape, *weight);
          tiles.each([&](long, const Sums<float>& tile, long unit) { end(tile, unit, row); });
        });
      }
    }
    for_shares(worker, count, blocks, blocks, F::tallest, backwards, [&](const Share& share) {
      const Product product = product_of(share.first);
      Vec<float> memory[slices * largest_tile];
      const auto tiles_of = [&](long height) { return BlockTiles(memory, height, shape, share.first, false); };
      const auto bring_tiles = [&](long height, long row) {
        tiles_of(height).each([&](long, const Sums<float>& tile, long unit) {
          bring(tile, begin(tile, unit, row));
        });
      };
      const auto end_tiles = [&](const typename F::Sums* sums, long height, long row) {
        tiles_of(height).each([&](long slice, const Sums<float>& tile, long unit) {
          add_sums(tile, sums, product, row, slice);
          end(tile, unit, row);
        });
      };
      if constexpr (by_parts) {
        if (share.blocks.end - share.blocks.begin > 1 && weight->ahead > 0) {
          return product_by_parts(share, rows, product, shape.gates, bring_tiles, end_tiles);
        }
      }
      for_heights(F::tallest, share, rows, [&](long height, long row) {
        bring_tiles(height, row);
        typename F::Sums sums[F::tallest * slices * tile_gates];
        add_words(sums, height, shape.gates, product, row, {0, words}, weight->ahead);
        end_tiles(sums, height, row);
      });
    });
  }

  // Makes gates of two products as Fma does, of float32; of bfloat16 by a matrix unit.
  template <class Begin, class Between, class End>
  FL_INLINE static void gates_of_two(const Worker& worker, Rows<float> first, long inputs,
                                     const PreparedMatrix* w_first, Rows<float> left, Range rows,
                                     const WeightShape& shape, const PreparedMatrix* weight,
                                     bool backwards, const Begin& begin, const Between& between,
                                     const End& end) {
#if defined(FL_UNIT)
    const WeightShape shape_of_first{shape.gates, shape.units, inputs};
    const Factor x = words_of(worker, first, rows, inputs, *w_first);
    const Factor h = words_of(worker, left, rows, shape.depth, *weight);
    for_unit_tiles(worker, rows, shape, backwards, [&](const Sums<float>& tile, long block, long row) {
      const long unit = block * W<float>;
      bring(tile, begin(tile, unit, row));
      add_by_unit(tile, x, row - rows.begin, shape_of_first, block, *w_first);
      between(tile, unit, row);
      add_by_unit(tile, h, row - rows.begin, shape, block, *weight);
      end(tile, unit, row);
    });
#else
    if constexpr (has_tiles) {
      if (!weight->apart) {
        const auto* const panels = reinterpret_cast<const float*>(weight->panels);
        const auto* const panels_first = reinterpret_cast<const float*>(w_first->panels);
        return Fma<float>::gates_of_two(worker, first, inputs, panels_first, left, rows, shape, panels, backwards,
                                        begin, between, end);
      }
    }
    for_block_tiles(worker, rows, shape, backwards, [&](const BlockTiles& tiles, long row) {
      Place<float> from[slices] = {};
      tiles.each([&](long slice, const Sums<float>& tile, long unit) { from[slice] = begin(tile, unit, row); });
      tiles.add(from, first, row, {shape.gates, shape.units, inputs}, *w_first);
      tiles.each([&](long slice, const Sums<float>& tile, long unit) {
        between(tile, unit, row);
        from[slice] = place_of(tile);
      });
      tiles.add(from, left, row, shape, *weight);
      tiles.each([&](long, const Sums<float>& tile, long unit) { end(tile, unit, row); });
    });
#endif
  }

  template <class End>
  FL_INLINE static void columns(const Worker& worker, Rows<float> left, Range rows, long depth,
                                long columns, const PreparedMatrix* weight, const End& end) {
    gates(worker, left, rows, {1, columns, depth}, weight, false,
          [](const Sums<float>&, long, long) { return Place<float>{}; },
          [&](const Sums<float>& tile, long column, long row) {
            end(tile, column / W<float>, row);
          });
  }

 private:
  // Rows of words, `stride` bytes apart, and of bytes each row's scale.
  struct Factor {
    const uint8_t* data;
    long stride;
    const float* scales;
  };

  // Each worker makes all rows, which takes less than to wait for each other.
  FL_INLINE static Factor words_of(const Worker& worker, Rows<float> left, Range rows, long depth,
                                   const PreparedMatrix& weight) {
    const float* const first = left.data + rows.begin * left.stride;
    if constexpr (F::kind == Prepared::float32) {
      return {reinterpret_cast<const uint8_t*>(first), left.stride * prepared::word, nullptr};
    } else {
      const long stride = prepared::left_stride(F::kind, depth), count = rows.end - rows.begin;
      uint8_t* const words = weight.left + worker.id * weight.left_size;
      float* const scales = reinterpret_cast<float*>(words + count * stride);
      for (long b = 0; b < count; ++b) {
        const float* const row = first + b * left.stride;
        if constexpr (F::kind == Prepared::int8) {
          scales[b] = to_bytes(row, depth, words + b * stride);
        } else if constexpr (F::kind == Prepared::int8_weights) {
          __builtin_memcpy(words + b * stride, row, depth * sizeof(float));
          __builtin_memset(words + b * stride + depth * sizeof(float), 0,
                           stride - depth * sizeof(float));
        } else {
          to_bfloat16(row, depth, words + b * stride);
          const long made = (depth + W<float> - 1) / W<float> * W<float> * 2;
          if (made < stride) __builtin_memset(words + b * stride + made, 0, stride - made);
        }
      }
      return {words, stride, scales};
    }
  }

  // The numbers that make of the sums of W columns what they stand for.
  struct Of {
    Int zero;
    Vec<float> scale;

    FL_INLINE Of(const PreparedMatrix& weight, long at) {
      if constexpr (prepared::of_bytes(F::kind)) scale = load(weight.scales + at);
      if constexpr (F::kind == Prepared::int8) {
        __builtin_memcpy(&zero, weight.sums + at, sizeof zero);
      }
    }

    FL_INLINE Vec<float> value(typename F::Sums sum, const Factor& left, long row) const {
      if constexpr (F::kind == Prepared::int8) {
        return __builtin_convertvector(sum - zero, Vec<float>) * (scale * left.scales[row]);
      } else if constexpr (F::kind == Prepared::int8_weights) {
        return sum * scale;
      } else {
        return sum;
      }
    }
  };

  // A product with the weights of a block of columns.
  struct Product {
    const Factor& left;
    long begin;                    // the row that is the factor's first
    long words;                    // of a row
    const uint8_t* panel;
    prepared::Strides strides;     // of it
    const PreparedMatrix& weight;  // whose panel that is,
    long at;                       // and where the columns' sums and scales begin

    FL_INLINE const uint8_t* row(long row) const { return left.data + (row - begin) * left.stride; }
  };

  // sums[r] = (if k begins with 0) or += the words `k` of the rows from a row on times those of the
  // weights: of a row's vectors, slices * GATES, as many as there are gates. ahead: bytes that are fetched
  // ahead, see ahead_of; or 0.
  template <int R, int GATES>
  __attribute__((noinline)) static void add_words_of(typename F::Sums* sums, const Product& product,
                                                     long row, long first, Range k, long ahead) {
    // So many sums of each element that a product does not wait for the one before.
    constexpr int most = F::parts > 1 ? 2 : 8;  // registers
    constexpr int chains = R * GATES <= most / 2 ? most / (R * GATES) : 1;
    constexpr long left_word = prepared::left_word(F::kind);
    const uint8_t* const factor = product.row(row);
    const long row_bytes = slices == 1 ? GATES * FL_BYTES : product.strides.k * prepared::word;
    const uint8_t* panel = product.panel + k.begin * row_bytes;
    long vectors[GATES];  // where each lies, in bytes
    FL_UNROLL for (int gate = 0; gate < GATES; ++gate) {
      const long vector = first + gate, apart = vector / slices * product.strides.gate;
      vectors[gate] = slices == 1 ? gate * FL_BYTES : apart * prepared::word + vector % slices * FL_BYTES;
    }
    const long stride = product.left.stride;
    typename F::Sums more[chains][R][GATES] = {};
    if (k.begin > 0) {
      FL_UNROLL for (int r = 0; r < R; ++r) {
        FL_UNROLL for (int gate = 0; gate < GATES; ++gate) {
          more[0][r][gate] = sums[r * slices * GATES + gate];
        }
      }
    }
    long at = k.begin;
    for (; at + chains <= k.end; at += chains) {
      FL_UNROLL for (int chain = 0; chain < chains; ++chain, panel += row_bytes) {
        if (slices == 1 && ahead) fetch<GATES * FL_BYTES>(panel + ahead);
        add_word(more[chain], factor + (at + chain) * left_word, stride, panel, vectors);
      }
    }
    for (; at < k.end; ++at, panel += row_bytes) {
      if (slices == 1 && ahead) fetch<GATES * FL_BYTES>(panel + ahead);
      add_word(more[0], factor + at * left_word, stride, panel, vectors);
    }
    FL_UNROLL for (int r = 0; r < R; ++r) {
      FL_UNROLL for (int gate = 0; gate < GATES; ++gate) {
        FL_UNROLL for (int chain = 1; chain < chains; ++chain) {
          more[0][r][gate] += more[chain][r][gate];
        }
        sums[r * slices * GATES + gate] = more[0][r][gate];
      }
    }
  }

  FL_INLINE static void add_words(typename F::Sums* sums, long rows, long gates,
                                  const Product& product, long row, Range k, long ahead) {
    with_constant<F::tallest>(rows, [&](auto height) {
      constexpr int R = decltype(height)::value;
      for (long first = 0; first < slices * gates; first += gates) {
        if (gates == 4) {
          add_words_of<R, 4>(sums + first, product, row, first, k, ahead);
        } else if (gates == 3) {
          add_words_of<R, 3>(sums + first, product, row, first, k, ahead);
        } else if (gates == 2) {
          add_words_of<R, 2>(sums + first, product, row, first, k, ahead);
        } else {
          add_words_of<R, 1>(sums + first, product, row, first, k, ahead);
        }
      }
    });
  }

  // tile[r] += what the sums of a row stand for, of each gate's vectors one.
  FL_INLINE static void add_sums(const Sums<float>& tile, const typename F::Sums* sums,
                                 const Product& product, long row, long slice) {
    for (long gate = 0; gate < tile.vectors; ++gate) {
      const long vector = gate * slices + slice;
      const Of of(product.weight, product.at + vector * W<float>);
      for (long r = 0; r < tile.rows; ++r) {
        tile[r][gate] += of.value(sums[r * slices * tile.vectors + vector], product.left,
                                  row - product.begin + r);
      }
    }
  }

  // --- float32 in tiles of a block ---
  //
  // Sums begin in registers, and stay there, as in a layer's tiles. Gates are made one after another, or two
  // at once of so few rows that their sums would wait for each other: all of a gate's vectors, so that whole
  // lines of the cache are read.

  static constexpr long block_rows =  // 6 x 2, 2 x 4; 6 x 4 of 32 registers
      min((registers - 1 - slices) / slices, largest_tile / tile_gates);

  template <int R>
  struct BlockTile {
    static constexpr int gates_at_once = 2 * slices <= max_vectors && R <= tile_of(2 * slices).rows ? 2 : 1;

    // tiles[slice][r][gate] = from[slice], of row r and a gate, + left[r] panel.
    __attribute__((noinline)) static void run(const Place<float>* from, Vec<float>* tiles, long gates,
                                              const float* left, long stride, long depth,
                                              const float* panel, const prepared::Strides& strides, bool fetches) {
      Place<float> places[slices];
      Vec<float> last[slices] = {};
      for (long slice = 0; slice < slices; ++slice) {
        places[slice] = from[slice];
        if (!from[slice].last) continue;
        last[slice] = load(from[slice].last);  // which may lie in the tile, as these places do
        places[slice].last = reinterpret_cast<const float*>(last + slice);
      }
      long gate = 0;
      for (; gate + gates_at_once <= gates; gate += gates_at_once) {
        make<gates_at_once>(places, tiles, gates, gate, left, stride, depth, panel, strides, fetches);
      }
      for (; gate < gates; ++gate) {
        make<1>(places, tiles, gates, gate, left, stride, depth, panel, strides, fetches);
      }
    }

    template <int COUNT>
    FL_INLINE static void make(const Place<float>* from, Vec<float>* tiles, long gates, long first,
                               const float* left, long stride, long depth, const float* panel,
                               const prepared::Strides& strides, bool fetches) {
      Tile<float, R, COUNT * slices> tile;
      FL_UNROLL for (int n = 0; n < COUNT * slices; ++n) {
        const long gate = first + n / slices;
        const Place<float>& place = from[n % slices];
        const bool is_last = place.last && gate == gates - 1;
        const float* const at = is_last ? place.last : place.data + gate * place.vector;
        FL_UNROLL for (int r = 0; r < R; ++r) {
          tile.sum[r][n] = place.data ? load(at + (is_last ? 0 : r * place.row)) : Vec<float>{};
        }
      }
      panel += first * strides.gate;
      if (fetches) {
        multiply_gates<true>(tile, left, stride, depth, panel, strides);
      } else {
        multiply_gates<false>(tile, left, stride, depth, panel, strides);
      }
      FL_UNROLL for (int n = 0; n < COUNT * slices; ++n) {
        Vec<float>* const to = tiles + n % slices * largest_tile + first + n / slices;
        FL_UNROLL for (int r = 0; r < R; ++r) to[r * gates] = tile.sum[r][n];
      }
    }

    // tile[r] += left[r] panel.
    template <bool FETCHES, int N>
    FL_INLINE static void multiply_gates(Tile<float, R, N>& tile, const float* left, long stride, long depth,
                                         const float* panel, const prepared::Strides& strides) {
      constexpr long held = min(N, usable - R * N - 1);  // as `multiply` holds them
      const long gate = strides.gate, row = strides.k;
      const auto at = [&](long n) { return panel + n / slices * gate + n % slices * W<float>; };
      for (long k = 0; k < depth; ++k) {
        Vec<float> b[N];
        FL_UNROLL for (int n = 0; n < N; ++n) {
          if (FETCHES && n % slices == 0) __builtin_prefetch(at(n) + 16 * row);
          if (n >= held) continue;
          b[n] = load(at(n));
          if constexpr (R > 1) in_register(b[n]);
        }
        FL_UNROLL for (int r = 0; r < R; ++r) {
          const Vec<float> scalar = broadcast(left[r * stride + k]);
          if (held < N) asm("" : "+r"(panel));
          FL_UNROLL for (int n = 0; n < N; ++n) {
            Vec<float>& sum = tile.sum[r][n];
            sum = n < held ? dot<float>(sum, scalar, b[n]) : dot_with<float>(sum, scalar, at(n));
          }
        }
        panel += row;
        FL_UNROLL for (int r = 0; r < R; ++r) {
          FL_UNROLL for (int n = 0; n < N; ++n) in_register(tile.sum[r][n]);
        }
      }
    }
  };

  // Tiles of some rows by the units of a block, one for each of its slices that exist.
  struct BlockTiles {
    Vec<float>* memory;
    long rows, gates, unit, exist;
    bool fetches;  // the block's weights, as the first of its tiles does

    BlockTiles(Vec<float>* memory, long rows, const WeightShape& shape, long block, bool fetches)
        : memory(memory),
          rows(rows),
          gates(shape.gates),
          unit(block * prepared::lanes),
          exist(min(slices, divide_up(shape.units - unit, W<float>))),
          fetches(fetches) {}

    // Calls body(slice, tile, unit).
    template <class Body>
    FL_INLINE void each(const Body& body) const {
      for (long slice = 0; slice < exist; ++slice) {
        const Sums<float> tile{memory + slice * largest_tile, rows, gates};
        body(slice, tile, unit + slice * W<float>);
      }
    }

    // tiles = from + left[row ...] weight, of its shape.
    FL_INLINE void add(const Place<float>* from, Rows<float> left, long row, const WeightShape& shape,
                       const PreparedMatrix& weight) const {
      const float* const first = left.data + row * left.stride;
      const prepared::Strides strides = prepared::strides_of(F::kind, weight.apart, shape);
      const auto* const panel = reinterpret_cast<const float*>(weight.panels) + unit * shape.depth * gates;
      with_constant<block_rows>(rows, [&](auto height) {
        BlockTile<decltype(height)::value>::run(from, memory, gates, first, left.stride, shape.depth, panel,
                                                strides, fetches);
      });
    }
  };

  // Calls body(tiles, row) for this worker's tiles of the rows `rows`.
  template <class Body>
  FL_INLINE static void for_block_tiles(const Worker& worker, Range rows, const WeightShape& shape,
                                        bool backwards, const Body& body) {
    const long blocks = prepared::blocks_of(shape.units), count = rows.end - rows.begin;
    // Few blocks that workers cannot share evenly are divided by rows, too.
    const bool uneven = blocks % worker.count != 0 && blocks < 4 * worker.count;
    const long tallest =
        uneven ? min(block_rows, max(divide_up(count, worker.count), 2)) : block_rows;
    const long parts = divide_up(count, tallest);
    Vec<float> memory[slices * largest_tile];
    for_shares(worker, count, blocks, blocks, tallest, backwards, [&](const Share& share) {
      for_heights(tallest, share, rows, [&](long height, long row) {
        const bool is_first = row == rows.begin + part(count, share.blocks.begin, parts).begin;
        body(BlockTiles(memory, height, shape, share.first, is_first), row);
      });
    });
  }

  // True of what keeps its sums in registers there.
  static constexpr bool by_parts =
      FL_BYTES == 64 && (F::kind == Prepared::float32 || F::kind == Prepared::int8);

  // Weights that come from beyond the L2 cache, by parts that the L1 cache keeps until they have met all
  // tiles. Sums lie in memory between parts. (With 8 rows it is 1.05 to 1.2 times as fast on an Emerald
  // Rapids, with 20 up to 1.06; weights in the L2 cache would lose up to a tenth.)
  template <class Bring, class End>
  static void product_by_parts(const Share& share, Range rows, const Product& product, long gates,
                               const Bring& bring_tiles, const End& end_tiles) {
    constexpr long most = 8;  // tiles at once
    const long part_words = near_bytes / (gates * prepared::lanes * prepared::word);
    const long count = rows.end - rows.begin, tiles = divide_up(count, F::tallest);
    const long vectors = slices * gates;
    typename F::Sums kept[most * F::tallest * slices * tile_gates];
    for (long block = share.blocks.begin; block < share.blocks.end; block += most) {
      const Share some{share.first, 1, {block, min(block + most, share.blocks.end)}};
      const long first = rows.begin + part(count, block, tiles).begin;
      for (long k = 0; k < product.words; k += part_words) {
        const Range words{k, min(k + part_words, product.words)};
        for_heights(F::tallest, some, rows, [&](long height, long row) {
          typename F::Sums* const sums = kept + (row - first) * vectors;
          // The first tile waits for its part; meanwhile the others fetch the next one.
          const long ahead = row == first ? product.weight.ahead : near_bytes;
          add_words(sums, height, gates, product, row, words, ahead);
        });
      }
      for_heights(F::tallest, some, rows, [&](long height, long row) {
        bring_tiles(height, row);
        end_tiles(kept + (row - first) * vectors, height, row);
      });
    }
  }

#if defined(FL_UNIT)
  static constexpr long unit_tile = 32;  // rows
  static constexpr Held held = F::kind == Prepared::int8 ? Held::bytes : Held::pairs;

  // Calls body(tile, block, row) for this worker's tiles of the rows `rows`, for which the unit is configured.
  template <class Body>
  FL_INLINE static void for_unit_tiles(const Worker& worker, Range rows, const WeightShape& shape,
                                       bool backwards, const Body& body) {
    const long blocks = prepared::blocks_of(shape.units);
    UnitScope scope;
    Vec<float> memory[unit_tile * tile_gates];
    for_shares(worker, rows.end - rows.begin, blocks, blocks, unit_tile, backwards, [&](const Share& share) {
      for_heights(unit_tile, share, rows, [&](long height, long row) {
        scope.configure(height);
        body(Sums<float>{memory, height, shape.gates}, share.first, row);
      });
    });
  }

  // tile += rows of the left factor from the `first` on times a block of a matrix, by a matrix unit.
  static void add_by_unit(const Sums<float>& tile, const Factor& left, long first, const WeightShape& shape,
                          long block, const PreparedMatrix& weight) {
    const uint8_t* const panel = weight.panels + block * prepared::panel_bytes(F::kind, shape);
    const long words = prepared::words_of(F::kind, shape.depth), at = block * shape.gates * prepared::lanes;
    const Bf16* const factor = (const Bf16*)(left.data + first * left.stride);
    const auto add = [&](Vec<float>* sums) {
      multiply_unit<held>(Sums<Bf16>{sums, tile.rows, tile.vectors}, divide_up(words, prepared::lanes),
                          (const Bf16*)panel,
                          [&](long k) { return Left{factor + 32 * k, nullptr, left.stride / 2}; });
    };
    if constexpr (F::kind == Prepared::bfloat16) return add(tile.data);
    Vec<float> memory[unit_tile * tile_gates];
    const Sums<Bf16> made{memory, tile.rows, tile.vectors};
    clear(made);
    add(memory);
    for (long gate = 0; gate < tile.vectors; ++gate) {
      const Of of(weight, at + gate * prepared::lanes);
      for (long r = 0; r < tile.rows; ++r) {
        tile[r][gate] += of.value((typename F::Sums)made[r][gate], left, first + r);
      }
    }
  }
#endif

  // Fetches a line that may be behind a matrix's end.
  template <long BYTES>
  FL_INLINE static void fetch(const uint8_t* panel) {
    FL_UNROLL for (long line = 0; line < BYTES; line += 64) __builtin_prefetch(panel + line);
  }

  template <int R, int GATES>
  FL_INLINE static void add_word(typename F::Sums (&sum)[R][GATES], const uint8_t* left,
                                 long stride, const uint8_t* panel, const long (&vectors)[GATES]) {
    FL_UNROLL for (int part = 0; part < F::parts; ++part) {
      typename F::Left a[R];
      FL_UNROLL for (int r = 0; r < R; ++r) a[r] = F::left(left + r * stride, part);
      FL_UNROLL for (int gate = 0; gate < GATES; ++gate) {
        typename F::Right b = F::right(panel + vectors[gate], part);
        if constexpr (R > 1 && sizeof b == FL_BYTES) in_register(b);
        FL_UNROLL for (int r = 0; r < R; ++r) sum[r][gate] = F::dot(sum[r][gate], a[r], b);
      }
      FL_UNROLL for (int r = 0; r < R; ++r) {
        FL_UNROLL for (int gate = 0; gate < GATES; ++gate) in_register(sum[r][gate]);
      }
    }
  }
};

}  // namespace fused_lstm::FL_ISA
