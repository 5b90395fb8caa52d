// The operators, as kernels/fused_lstm/operator/ops.py defines them.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "ops/precision.h"
#include "tensor.h"
#include "threads.h"

namespace fused_lstm {

using OptionalTensor = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;

std::tuple<Tensor, Tensor> cell(const Tensor& gates, const Tensor& c);

std::tuple<Tensor, Tensor> cell_backward(const Tensor& gates, const Tensor& c,
                                         const Tensor& c_next, const Tensor& dh,
                                         const Tensor& dc_next);

// These two keep what they are given by value.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lstm(
    Tensor x, Tensor h0, Tensor c0, Tensors weights, double dropout, const OptionalTensor& seed,
    const std::string& fuse, bool save, int64_t directions, const OptionalTensor& batch_sizes,
    const OptionalTensor& not_reset, const std::string& cell, const std::vector<double>& rates,
    const PrecisionOverride& precision);

std::tuple<Tensor, Tensor, Tensor, Tensors> lstm_backward(
    const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n, Tensor x,
    Tensor h0, Tensor c0, Tensors weights, double dropout, const OptionalTensor& seed,
    const std::string& fuse, Tensor y, Tensor h, Tensor c, Tensor gates, bool needs_dx,
    int64_t directions, const OptionalTensor& batch_sizes, const OptionalTensor& not_reset,
    const std::string& cell, const std::vector<double>& rates,
    const PrecisionOverride& precision, int64_t samples, const OptionalTensor& dh,
    const OptionalTensor& dc);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrence(
    const Tensor& x_part, const Tensor& h0, const Tensor& c0, const Tensor& weight_hh,
    const OptionalTensor& bias_m, const std::string& cell, bool save, bool reverse,
    const OptionalTensor& batch_sizes, const OptionalTensor& not_reset, double clip,
    const PrecisionOverride& precision);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> recurrence_backward(
    const OptionalTensor& dy, const OptionalTensor& dh_n, const OptionalTensor& dc_n,
    const Tensor& h0, const Tensor& c0, const Tensor& weight_hh, const OptionalTensor& bias_m,
    const Tensor& y, const Tensor& c, const Tensor& gates, const std::string& cell, bool reverse,
    const OptionalTensor& batch_sizes, const OptionalTensor& not_reset, double clip,
    const PrecisionOverride& precision, const OptionalTensor& dc);

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_cross_entropy(
    const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias, const Tensor& target,
    const OptionalTensor& row_grad, int64_t ignore_index, const PrecisionOverride& precision);

// Weights as isa/prepared.h has them; in inference.
std::tuple<Tensor, Tensor, Tensor> prepared_lstm(
    Tensor x, Tensor h0, Tensor c0, Tensors weights, int64_t directions,
    const OptionalTensor& batch_sizes, const OptionalTensor& not_reset, const std::string& cell,
    bool weight_only);

Tensor dropout(const Tensor& x, double p, const Tensor& seed, int64_t first);

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> packing(
    const Tensor& lengths, int64_t steps, bool batch_first);

Tensor gather(const Tensor& x, const Tensor& index);

// body(worker) on each thread of a team of at most `most`.
template <class Body>
void run_on_team(long most, const Body& body) {
  const auto call = [](void* argument, const Worker& worker) {
    (*static_cast<const Body*>(argument))(worker);
  };
  run_team(most, call, const_cast<void*>(static_cast<const void*>(&body)));
}

template <class Body>
void run_on_team(const Body& body) {
  run_on_team(team_size(), body);
}

}  // namespace fused_lstm
