// A matrix of bfloat16 in blocks, between its two uses as a left-hand factor (see blocks.h).
#pragma once

#include "product/blocks.h"
#include "product/transpose.h"

namespace fused_lstm::FL_ISA {

// Before the first use: zeros where a group has no columns, but a row is read.
template <class T>
void clear_rest(const Worker& worker, const Blocks<T>& blocks) {
  for (long group = 0; group < blocks.groups; ++group) {
    const long end = (group + 1) * blocks.in_group();
    for (long block = end - blocks.in_group() + blocks_of<T>(blocks.units); block < end; ++block) {
      const Range rows = part(blocks.rows, worker.id, worker.count);
      for (long row = rows.begin; row < rows.end; ++row) store(blocks.at(block, row), Vec<T>{});
    }
  }
}

// Between the uses, in place: pairs of rows instead of pairs of columns, and for a matrix unit the
// columns of a block as rows of pairs. After the last row are zeros.
template <class T>
void pair_rows(const Worker& worker, const Blocks<T>& blocks) {
  if constexpr (deep<T> > 1) {
    constexpr long abreast = Blocks<T>::abreast, pairs = grain<T> / 2;
    const Range mine = whole_part(blocks.count(), worker.id, worker.count, abreast);
    for (long block = mine.begin; block < mine.end; block += abreast) {
      for (long first = 0; first < blocks.rows; first += grain<T>) {
        Factor<T> made[abreast][pairs];
        const auto row = [&](long n, long at) {
          return at < blocks.rows ? load(blocks.at(block + n, at)) : Vec<T>{};
        };
        for (long n = 0; n < abreast; ++n) {
          for (long i = 0; i < pairs; ++i) {
            made[n][i] = pair_of<T>(row(n, first + 2 * i), row(n, first + 2 * i + 1));
          }
          if constexpr (pairs == W<T>) transpose_stage<1, T>(made[n]);
        }
        for (long n = 0; n < abreast; ++n) {
          for (long i = 0; i < pairs; ++i) {
            store_factors(blocks.paired_at(block + n, first) + i * W<T> * deep<T>, made[n][i]);
          }
        }
      }
    }
  }
}

}  // namespace fused_lstm::FL_ISA
