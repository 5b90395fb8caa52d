// Heads in an operator's rows lie side by side; lanes of heads lie one after another.
#pragma once

#include "ops/call.h"

namespace fused_lstm {

// Transposes a matrix [rows, columns] of vectors of so many bytes, whose rows lie `stride` vectors apart.
void transpose_vectors(const Tensor& from, long first, long stride, long rows, long columns,
                       long bytes, const Tensor& to);

// Rows [batch, count*N*K], heads side by side in each of `count` vectors of a row, in a dtype as
// [N, batch, count*K].
Tensor heads_first(const Sizes& s, const Tensor& given, long batch, long count, Dtype dtype);

// The way back, in a dtype too.
Tensor side_by_side(const Sizes& s, const Tensor& heads, long batch, long count, Dtype dtype);

// weight_hh [N, G*K, K] in a dtype, contiguous.
Tensor weight_of_heads(const Tensor& weight, Dtype dtype);

}  // namespace fused_lstm
