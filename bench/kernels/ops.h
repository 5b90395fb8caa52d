// The operators of this library.
#pragma once

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "ops/precision.h"
#include "tensor.h"

namespace fused_lstm {

std::vector<std::string> product_names();

std::tuple<Tensor, std::vector<double>> product(const std::string& name, const Tensor& left,
                                                const Tensor& right, int64_t batch,
                                                int64_t rounds, const PrecisionOverride& precision);

double best_product(Dtype dtype, const PrecisionOverride& precision);

std::string plan(int64_t steps, int64_t batch, int64_t inputs, int64_t hidden, int64_t layers,
                 const std::string& fuse, bool save, int64_t directions, int64_t projected,
                 bool even, bool dropout, Dtype dtype, std::optional<int64_t> threads,
                 const std::string& isa, const PrecisionOverride& precision, const std::string& cell,
                 int64_t meeting, bool prepared);

int64_t meeting_of(int64_t workers);

std::vector<int64_t> fetching(bool intel, int64_t l2, int64_t registers);

int64_t prepared_ahead(bool intel, int64_t l2, int64_t bytes);

}  // namespace fused_lstm
