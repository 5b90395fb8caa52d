#include "ops/heads.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace fused_lstm {

void transpose_vectors(const Tensor& from, long first, long stride, long rows, long columns,
                       long bytes, const Tensor& to) {
  const char* const in = static_cast<const char*>(from.data()) + first * bytes;
  char* const out = static_cast<char*>(to.data());
  for (long row = 0; row < rows; ++row) {
    for (long column = 0; column < columns; ++column) {
      std::memcpy(out + (column * rows + row) * bytes, in + (row * stride + column) * bytes, bytes);
    }
  }
}

Tensor heads_first(const Sizes& s, const Tensor& given, long batch, long count, Dtype dtype) {
  const Tensor rows = converted(given, dtype);
  const Tensor heads = fresh(Dimensions({s.heads, batch, count * s.hidden}), dtype);
  transpose_vectors(rows, 0, s.heads, batch * count, s.heads, s.hidden * bytes_of(dtype), heads);
  return heads;
}

Tensor side_by_side(const Sizes& s, const Tensor& heads, long batch, long count, Dtype dtype) {
  const Tensor rows = fresh(Dimensions({batch, count * s.heads * s.hidden}), heads.dtype());
  const long bytes = s.hidden * bytes_of(heads.dtype());
  transpose_vectors(heads, 0, batch * count, s.heads, batch * count, bytes, rows);
  return to_dtype(rows, dtype);
}

namespace {

constexpr long square = 16;  // of a matrix that is transposed

// The rows `first` to `last` of a matrix, of one whose rows are its columns. A square goes by way of
// a small one: lines a power of two apart, as those of a weight may be, share a set of the cache.
template <class T>
void transpose(const T* from, long rows, long columns, long first, long last, T* to) {
  T small[square][square];
  for (long column = 0; column < columns; column += square) {
    const long width = std::min(square, columns - column);
    for (long k = 0; k < width; ++k) {
      std::copy_n(from + (column + k) * rows + first, last - first, small[k]);
    }
    for (long row = first; row < last; ++row) {
      T* const out = to + row * columns + column;
      for (long k = 0; k < width; ++k) out[k] = small[k][row - first];
    }
  }
}

}  // namespace

// DreamerV3 and TiRex have [N, K, G*K] in memory, of
// which aten::contiguous makes a copy in the time of a hundred steps.
Tensor weight_of_heads(const Tensor& weight, Dtype dtype) {
  if (weight.dtype() != dtype || dtype == Dtype::BFloat16 || !weight.is_transposed()) {
    return converted(weight, dtype);
  }
  const Tensor own = fresh(weight.sizes(), dtype);
  const long count = weight.size(0), rows = weight.size(1), columns = weight.size(2);
  const long blocks = (rows + square - 1) / square;
  const auto copy = [&](const auto* element) {
    using E = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    run_on_team(weight.numel() < 1 << 16 ? 1 : team_size(), [&](const Worker& worker) {
      for (long i = worker.id; i < count * blocks; i += worker.count) {
        const long n = i / blocks, first = i % blocks * square;
        transpose(element + n * rows * columns, rows, columns, first,
                  std::min(first + square, rows), data_of<E>(own) + n * rows * columns);
      }
    });
  };
  if (dtype == Dtype::Double) copy(data_of<const double>(weight));
  if (dtype == Dtype::Float) copy(data_of<const float>(weight));
  return own;
}

}  // namespace fused_lstm
