// Rows of unequal length, packed and unpacked: the operators `packing` and `gather`. PyTorch has
// all that they do; it is twenty calls to find the order, and results in memory that the system
// maps anew each time (see memory.h).
#include <algorithm>
#include <cstring>
#include <numeric>

#include "memory.h"
#include "ops/check.h"
#include "ops/ops.h"

namespace fused_lstm {
namespace {


constexpr int64_t worth_a_thread = 32 << 10;  // bytes: below it, waking another one costs more

Tensor integers(int64_t count) { return empty({count}, Dtype::Long); }

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> packing(const Tensor& lengths, int64_t steps,
                                                           bool batch_first) {
  const int64_t B = lengths.numel();
  check(lengths, "lengths", {B}, Dtype::Long);
  const Tensor given = lengths.contiguous();
  const int64_t* const length = data_of<int64_t>(given);
  for (int64_t b = 0; b < B; ++b) {
    CHECK_VALUE(length[b] >= 1 && length[b] <= steps, "lengths: got ", length[b],
                "; expected 1 to T = ", steps);
  }
  const int64_t live = std::accumulate(length, length + B, int64_t{0});
  const int64_t N = std::min(live + 1, steps * B);
  const Tensor batch_sizes = integers(steps), order = integers(B), back = integers(B);
  const Tensor places = integers(N), back_places = integers(steps * B);
  int64_t* const sizes = data_of<int64_t>(batch_sizes);
  int64_t* const rank = data_of<int64_t>(back);
  int64_t* const row_of = data_of<int64_t>(order);
  int64_t* const place_of = data_of<int64_t>(places);
  int64_t* const packed_of = data_of<int64_t>(back_places);
  std::vector<int64_t> before(steps + 1, 0);  // how many rows are longer than t
  for (int64_t b = 0; b < B; ++b) ++before[length[b] - 1];
  for (int64_t t = steps - 1; t >= 0; --t) before[t] += before[t + 1];
  std::copy_n(before.data(), steps, sizes);
  for (int64_t b = 0; b < B; ++b) {
    rank[b] = before[length[b]]++;
    row_of[rank[b]] = b;
  }
  int64_t first = 0;
  for (int64_t t = 0; t < steps; first += sizes[t], ++t) {
    for (int64_t b = 0; b < B; ++b) {
      const int64_t place = batch_first ? b * steps + t : t * B + b;
      const int64_t packed = t < length[b] ? first + rank[b] : live;
      packed_of[place] = packed;
      place_of[packed] = place;
    }
  }
  return {batch_sizes, order, back, places, back_places};
}

Tensor gather(const Tensor& x, const Tensor& index) {
  CHECK_VALUE(x.dim() > 0, "x: got shape ", shown(x), "; expected [M, ...]");
  check(index, "index", {index.numel()}, Dtype::Long);
  const Tensor from = x.contiguous(), places = index.contiguous();
  const int64_t* const of = data_of<int64_t>(places);
  const int64_t rows = x.size(0), count = places.numel();
  for (int64_t n = 0; n < count; ++n) {
    CHECK_INDEX(of[n] >= 0 && of[n] < rows, "index: got ", of[n], " at ", n,
                "; expected a number in [0, ", rows, ")");
  }
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape[0] = count;
  const Tensor out = fresh(shape, x.dtype());
  if (out.numel() == 0) return out;
  const int64_t bytes = from.numel() / rows * bytes_of(x.dtype());
  const char* const source = static_cast<const char*>(from.data());
  char* const target = static_cast<char*>(out.data());
  const auto copy = [&](const Worker& worker) {
    const int64_t end = count * (worker.id + 1) / worker.count;
    for (int64_t n = count * worker.id / worker.count; n < end; ++n) {
      std::memcpy(target + n * bytes, source + of[n] * bytes, bytes);
    }
  };
  count * bytes < 2 * worth_a_thread ? copy(Worker{}) : run_on_team(copy);
  return out;
}

}  // namespace fused_lstm
