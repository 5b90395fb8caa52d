// Weights of three gates with rows for four, which is what kernels have, and their gradients back.
#include <algorithm>
#include <type_traits>

#include "ops/call.h"

namespace fused_lstm {
namespace {

template <class Body>
void on_elements(const Tensor& tensor, const Body& body) {
  const Dtype dtype = tensor.dtype();
  if (dtype == Dtype::Double) return body(data_of<double>(tensor));
  if (dtype == Dtype::BFloat16) return body(data_of<c10::BFloat16>(tensor));
  body(data_of<float>(tensor));
}

// body(to, from, size): `size` elements are a gate's.
template <class Body>
Tensor with_a_gate(const Tensor& weight, long hidden, const Body& body) {
  std::vector<int64_t> shape(weight.sizes().begin(), weight.sizes().end());
  shape[0] += hidden;
  const Tensor out = fresh(shape, weight.dtype());
  on_elements(weight, [&](const auto* from) {
    using E = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
    body(data_of<E>(out), from, hidden * (weight.numel() / weight.size(0)));
  });
  return out;
}

// body(own, size), on a gradient by such a weight, leaves in its rows from `hidden` on that by what
// was given.
template <class Body>
void without_a_gate(Tensor& gradient, long hidden, const Body& body) {
  const long size = hidden * (gradient.numel() / gradient.size(0));
  on_elements(gradient, [&](auto* own) { body(own, size); });
  gradient = gradient.rows_from(hidden);
}

// --- coupled gates: 1 - sigma(a) is sigma(-a), so f's rows are minus i's ---

// Rows i, others -> i, -i, others.
void spread_coupled(Tensor& weight, long hidden) {
  weight = with_a_gate(weight, hidden, [&](auto* to, const auto* from, long size) {
    std::copy_n(from, size, to);
    for (long i = 0; i < size; ++i) to[size + i] = -from[i];
    std::copy_n(from + size, weight.numel() - size, to + 2 * size);
  });
}

void fold_coupled(Tensor& gradient, long hidden) {
  without_a_gate(gradient, hidden, [](auto* own, long size) {
    for (long i = 0; i < size; ++i) own[size + i] = own[i] - own[size + i];
  });
}

bool has_gates(const Call& call, long weight) {
  return !call.sizes.projected || weight % call.per_lane != call.per_lane - 1;
}

// --- a GRU's gates: m is what h makes of n, and has no rows for x; n then has none for h ---

// Rows r, z, n -> 0, r, z, n for x, and n, r, z, 0 for h.
void spread_gru(Tensor& weight, long hidden, bool of_h) {
  weight = with_a_gate(weight, hidden, [&](auto* to, const auto* from, long size) {
    if (of_h) {
      std::copy_n(from + 2 * size, size, to);
      std::copy_n(from, 2 * size, to + size);
    } else {
      std::copy_n(from, 3 * size, to + size);
    }
    std::fill_n(to + (of_h ? 3 * size : 0), size, 0.0f);
  });
}

void fold_gru(Tensor& gradient, long hidden, bool of_h) {
  without_a_gate(gradient, hidden, [&](auto* own, long size) {
    if (of_h) std::copy_n(own, size, own + 3 * size);
  });
}

// gru(tensor, whether it is h's) or coupled(tensor), on each of a call's weights or gradients.
template <class Gru, class Coupled>
void for_each(const Call& call, Tensors& weights, Tensors& vectors, const Gru& gru,
              const Coupled& coupled) {
  const long hidden = call.sizes.hidden;
  for (long i = 0; i < static_cast<long>(weights.size()); ++i) {
    if (call.cell.gru) {
      gru(weights[i], hidden, i % 2 == 1);  // w_ih, w_hh, b_ih, b_hh
    } else if (has_gates(call, i)) {
      coupled(weights[i], hidden);
    }
  }
  for (Tensor& vector : vectors) coupled(vector, hidden);
}

}  // namespace

void spread(Call& call) {
  for_each(call, call.weights, call.vectors, spread_gru, spread_coupled);
}

void fold(const Call& call, Backward& out) {
  for_each(call, out.dweights, out.dvectors, fold_gru, fold_coupled);
}

}  // namespace fused_lstm
