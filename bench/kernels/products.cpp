// A product of a training step by itself (see alone.h), timed where it runs: for bench products,
// bench ladder, whose step loops multiply with it, and the tests. Operands and result are plain
// matrices; to turn them into what the product reads is not in the seconds that it returns.
#include "products.h"

#include <atomic>
#include <chrono>
#include <string_view>

#include "isa/isa.h"
#include "memory.h"
#include "ops.h"
#include "ops/check.h"
#include "ops/ops.h"

#if defined(__x86_64__) && !defined(FL_WITHOUT_AMX)
#define FL_AMX
#endif

namespace fused_lstm {

#define FL_FLOAT(isa)                                  \
  namespace isa {                                      \
  extern const ProductKernels<float> float_products;   \
  }
#define FL_DOUBLE(isa)                                 \
  namespace isa {                                      \
  extern const ProductKernels<double> double_products; \
  }
#define FL_BFLOAT(isa)                                 \
  namespace isa {                                      \
  extern const ProductKernels<Bf16> bf16_products;     \
  }
FL_FLOAT(base)
FL_DOUBLE(base)
#ifdef FL_EMULATOR
FL_FLOAT(emulated_1)
FL_FLOAT(emulated_2)
FL_BFLOAT(emulated)
#endif
#if defined(__x86_64__)
FL_FLOAT(avx2)
FL_DOUBLE(avx2)
FL_FLOAT(avx512)
FL_DOUBLE(avx512)
FL_BFLOAT(avx512_bf16)
#endif
#ifdef FL_AMX
FL_FLOAT(amx_1)
FL_FLOAT(amx_2)
FL_BFLOAT(amx)
#endif

namespace {

template <class T>
struct Named {
  std::string_view name;  // of Kernels<T>
  const ProductKernels<T>* products;
};

#if defined(__aarch64__)
constexpr std::string_view base_name = "neon";
#else
constexpr std::string_view base_name = "sse2";
#endif

template <class T>
const ProductKernels<T>& products_of(const Kernels<T>& kernels);

template <class T, size_t count>
const ProductKernels<T>& named(const Named<T> (&all)[count], std::string_view name) {
  for (const Named<T>& each : all) {
    if (each.name == name) return *each.products;
  }
  CHECK_VALUE(false, "products: got none for ", name);
}

template <>
const ProductKernels<float>& products_of(const Kernels<float>& kernels) {
  static constexpr Named<float> all[] = {
      {base_name, &base::float_products},
#ifdef FL_EMULATOR
      {"emulated, 1 term", &emulated_1::float_products},
      {"emulated, 2 terms", &emulated_2::float_products},
#endif
#if defined(__x86_64__)
      {"avx2", &avx2::float_products},
      {"avx512", &avx512::float_products},
#endif
#ifdef FL_AMX
      {"amx, 1 term", &amx_1::float_products},
      {"amx, 2 terms", &amx_2::float_products},
#endif
  };
  return named(all, kernels.name);
}

template <>
const ProductKernels<double>& products_of(const Kernels<double>& kernels) {
  static constexpr Named<double> all[] = {
      {base_name, &base::double_products},
#if defined(__x86_64__)
      {"avx2", &avx2::double_products},
      {"avx512", &avx512::double_products},
#endif
  };
  return named(all, kernels.name);
}

template <>
const ProductKernels<Bf16>& products_of(const Kernels<Bf16>& kernels) {
  static constexpr Named<Bf16> all[] = {
#ifdef FL_EMULATOR
      {"emulated", &emulated::bf16_products},
#endif
#if defined(__x86_64__)
      {"avx512_bf16", &avx512_bf16::bf16_products},
#endif
#ifdef FL_AMX
      {"amx", &amx::bf16_products},
#endif
  };
  return named(all, kernels.name);
}

struct Kind {
  const char* name;
  Product product;
  long groups;  // of the columns of blocks
};

constexpr Kind kinds[] = {
    {"input", Product::input, 1},
    {"step", Product::step, 1},
    {"step back", Product::step_back, 4},
    {"dx", Product::rows, 4},
    {"dW", Product::columns, 4},
    {"logits", Product::logits, 1},
    {"dhidden", Product::columns, 1},
    {"ddecoder", Product::rows, 1},
};

const Kind& kind_of(const std::string& name) {
  std::string offer;
  for (const Kind& kind : kinds) {
    if (name == kind.name) return kind;
    offer += std::string(offer.empty() ? "" : ", ") + kind.name;
  }
  CHECK_VALUE(false, "name: got '", name, "'; expected one of ", offer);
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// What [rows, result] a product makes of its factors; `right` is checked.
std::vector<int64_t> shape_of_result(const Kind& kind, const Tensor& left, const Tensor& right,
                                     long batch) {
  const bool steps = kind.product == Product::step || kind.product == Product::step_back;
  const int64_t m = left.size(0), k = left.size(1), columns = right.size(1);
  CHECK_VALUE(!steps || (batch > 0 && m % batch == 0), "batch: got ", batch,
              "; expected a divisor of the ", m, " rows of left");
  CHECK_VALUE(kind.groups == 1 || k % 4 == 0, "left: got shape ", shown(left),
              "; expected four gates side by side");
  const auto right_is = [&](Dimensions shape) {
    check(right, "right", shape, left.dtype());
  };
  if (kind.product == Product::step) right_is({4 * k, k});
  if (kind.product == Product::input) right_is({right.size(0) / 4 * 4, k});
  if (kind.product == Product::logits) right_is({right.size(0), k});
  if (kind.product == Product::step_back) right_is({k, k / 4});
  if (kind.product == Product::rows) right_is({k, columns});
  if (kind.product != Product::columns) {
    const bool transposed = kind.product == Product::rows || kind.product == Product::step_back;
    return {m, transposed ? columns : right.size(0)};
  }
  right_is({m, columns});
  return {k, columns};
}

template <class T>
std::vector<double> run(const Kernels<T>& kernels, const Kind& kind, const Tensor& left,
                        const Tensor& right, long batch, long rounds, const Tensor& out) {
  Factors<T> f{};
  f.product = kind.product;
  f.rows = left.size(0);
  f.batch = batch;
  f.groups = kind.groups;
  f.columns = right.size(1);
  f.units = left.size(1) / kind.groups;
  if (kind.product == Product::input) f.units = right.size(0) / 4;
  if (kind.product == Product::logits) f.units = right.size(0);
  f.left = data_of<T>(left);
  f.right = data_of<T>(right);
  f.out = data_of<Sum<T>>(out);
  constexpr long wide = sizeof(Sum<T>) / sizeof(T);  // logits and their maxima are sums
  const bool steps = kind.product == Product::step || kind.product == Product::step_back;
  const bool logits = kind.product == Product::logits, plain = kind.product == Product::input;
  f.workers = team_size();
  const long lanes = f.workers * (f.units + kernels.shapes.lanes) * wide;
  const long size = plain ? 1 : kernels.blocks_size(f.groups, f.units, f.rows | 1) * wide;
  const Tensor blocks = fresh({size}, left.dtype());
  const long recurrent = kernels.recurrent_size({4, f.units, f.units}, 0, false);
  const Tensor packed = fresh({steps ? recurrent : logits ? lanes : 1}, left.dtype());
  const Tensor panels = fresh({f.workers, kernels.shapes.panel_size}, left.dtype());
  const long rows = plain ? f.rows : f.workers * f.batch;
  const Tensor ready = fresh({kernels.ready_size(rows, left.size(1))}, left.dtype());
  f.blocks = data_of<T>(blocks);
  f.packed = data_of<T>(packed);
  f.panels = data_of<T>(panels);
  f.ready = data_of<T>(ready);
  const ProductKernels<T>& products = products_of(kernels);
  products.prepare(f, false);
  std::vector<double> seconds;
  for (long i = 0; i < rounds; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    run_on_team([&](const Worker& worker) { products.run(worker, f); });
    seconds.push_back(seconds_since(begin));
  }
  products.prepare(f, true);
  return seconds;
}

template <class T>
double best_rate(const Kernels<T>& kernels, Dtype dtype) {
  constexpr long count = 20000;  // some milliseconds
  const Tensor factors = zeros({team_size(), kernels.shapes.panel_size}, dtype);
  std::atomic<long> done{0};
  const auto begin = std::chrono::steady_clock::now();
  run_on_team([&](const Worker& worker) {
    T* const own = data_of<T>(factors) + worker.id * kernels.shapes.panel_size;
    done += products_of(kernels).best(count, own);
  });
  return done / seconds_since(begin);
}

}  // namespace

std::vector<std::string> product_names() {
  std::vector<std::string> names;
  for (const Kind& kind : kinds) names.emplace_back(kind.name);
  return names;
}

std::tuple<Tensor, std::vector<double>> product(const std::string& name, const Tensor& left,
                                                const Tensor& right, int64_t batch,
                                                int64_t rounds, const PrecisionOverride& precision) {
  const Kind& kind = kind_of(name);
  CHECK_VALUE(left.dim() == 2, "left: got shape ", shown(left), "; expected a matrix");
  CHECK_VALUE(right.dim() == 2, "right: got shape ", shown(right), "; expected a matrix");
  CHECK_VALUE(rounds > 0, "rounds: got ", rounds, "; expected 1 or more");
  const Isa& isa = current_isa();
  const Dtype dtype = left.dtype();
  check_factors(dtype, isa, "left: got dtype");
  const Tensor a = left.contiguous(), b = right.contiguous();
  const Tensor out = fresh(shape_of_result(kind, a, b, batch), sum_dtype(dtype));
  const int terms = terms_of(dtype, precision);
  return {out, with_factors(dtype, terms, isa, [&](const auto& kernels) {
            return run(kernels, kind, a, b, batch, rounds, out);
          })};
}

// Multiply-adds a second on each thread of the team, all at once: what no product can pass.
double best_product(Dtype dtype, const PrecisionOverride& precision) {
  const Isa& isa = current_isa();
  check_factors(dtype, isa, "dtype: got");
  const int terms = terms_of(dtype, precision);
  return with_factors(dtype, terms, isa,
                      [&](const auto& kernels) { return best_rate(kernels, dtype); });
}

}  // namespace fused_lstm
