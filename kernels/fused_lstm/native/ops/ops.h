// The operators, as kernels/fused_lstm/ops.py defines them.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "threads.h"

namespace fused_lstm {

std::tuple<at::Tensor, at::Tensor> cell(const at::Tensor& gates, const at::Tensor& c);

std::tuple<at::Tensor, at::Tensor> cell_backward(const at::Tensor& gates, const at::Tensor& c,
                                                 const at::Tensor& c_next, const at::Tensor& dh,
                                                 const at::Tensor& dc_next);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> lstm(
    const at::Tensor& x, const at::Tensor& h0, const at::Tensor& c0, at::TensorList weights,
    double dropout, const std::optional<at::Tensor>& seed, std::string_view fuse, bool save,
    int64_t directions, const std::optional<at::Tensor>& batch_sizes,
    const std::optional<at::Tensor>& keep, std::string_view cell, at::ArrayRef<double> rates,
    std::optional<std::string_view> precision);

std::tuple<at::Tensor, at::Tensor, at::Tensor, std::vector<at::Tensor>> lstm_backward(
    const std::optional<at::Tensor>& dy, const std::optional<at::Tensor>& dh_n,
    const std::optional<at::Tensor>& dc_n, const at::Tensor& x, const at::Tensor& h0,
    const at::Tensor& c0, at::TensorList weights, double dropout,
    const std::optional<at::Tensor>& seed, std::string_view fuse, const at::Tensor& y,
    const at::Tensor& h, const at::Tensor& c, const at::Tensor& gates, bool needs_dx,
    int64_t directions, const std::optional<at::Tensor>& batch_sizes,
    const std::optional<at::Tensor>& keep, std::string_view cell, at::ArrayRef<double> rates,
    std::optional<std::string_view> precision);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> linear_cross_entropy(
    const at::Tensor& hidden, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
    const at::Tensor& target, const std::optional<at::Tensor>& row_grad, int64_t ignore_index,
    std::optional<std::string_view> precision);

std::vector<std::string> product_names();

std::tuple<at::Tensor, std::vector<double>> product(const std::string& name,
                                                    const at::Tensor& left,
                                                    const at::Tensor& right, int64_t batch,
                                                    int64_t rounds);

double best_product(at::ScalarType dtype);

at::Tensor dropout(const at::Tensor& x, double p, const at::Tensor& seed, int64_t first);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> packing(
    const at::Tensor& lengths, int64_t steps, bool batch_first);

at::Tensor gather(const at::Tensor& x, const at::Tensor& index);

std::string plan(int64_t steps, int64_t batch, int64_t inputs, int64_t hidden, int64_t layers,
                 const std::string& fuse, bool save, int64_t directions, int64_t projected,
                 bool even, bool dropout, at::ScalarType dtype, std::optional<int64_t> threads,
                 const std::string& isa);

// body(worker) on each thread of a team.
template <class Body>
void run_on_team(const Body& body) {
  const auto call = [](void* argument, const Worker& worker) {
    (*static_cast<const Body*>(argument))(worker);
  };
  run_team(call, const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace fused_lstm
