// Makes the masks, buffers and weights of each lane that nn.LSTM's cell does not have.
#include <algorithm>
#include <functional>
#include <type_traits>

#include "ops/call.h"

namespace fused_lstm {
namespace {

// Kinds of masks, as kernels/fused_lstm/call/spec.py numbers their elements.
constexpr unsigned long long zoneout_h = 1ull << 56, zoneout_c = 2ull << 56, recurrent = 3ull << 56;

// Hands out the parts of one tensor.
template <class E>
struct Parts {
  E* next;

  E* take(long size) {
    E* const part = next;
    next += size;
    return part;
  }
};

// Makes the mask of a zoneout, which keeps where dropout would drop; outside training it is its
// expectation.
template <class T>
StepMask<T> zoneout(const Call& call, long lane, double rate, unsigned long long kind, long size,
                    Parts<Sum<T>>& parts) {
  const Sizes& s = call.sizes;
  if (rate == 0) return {};
  StepMask<T> mask{parts.take(2 * s.batch * size), size, call.seed.has_value(),
                   dropout_of(rate, call.seed), kind + lane * s.steps * s.batch * size};
  mask.rule.kept = 0;
  mask.rule.dropped = 1;
  if (!mask.drawn) std::fill_n(mask.values, 2 * s.batch * size, static_cast<Sum<T>>(rate));
  return mask;
}

// Returns the memory of workers that normalize, [lanes, workers, own_size]. Backwards it begins with the
// gradients of the bias and of the gains, 0 at first. Then an LSTM has a row's gates, and c and more,
// another cell the gates of rows_abreast rows in blocks.
template <class T>
Tensor norm_memory(const Kernels<T>& kernels, const Sizes& s, bool backward, Dtype sums) {
  const CellShape& shape = s.cell;
  const bool lstm = s.cell.is_lstm;
  const long H = s.hidden, lanes = s.layers * s.directions;
  if (!backward) return fresh(Dimensions({lanes, team_size(), lstm ? 2 * H : 0}), sums);
  const long gradients = (shape.gradients() + shape.products() + 2 * lstm) * H;
  const long rows = lstm ? 6 * H : kernels.blocks_size(shape.gradients(), H, rows_abreast);
  const Tensor own = fresh(Dimensions({lanes, team_size(), gradients + rows}), sums);
  Sum<T>* const memory = data_of<Sum<T>>(own);
  for (long i = 0; i < lanes * team_size(); ++i) {
    std::fill_n(memory + i * (gradients + rows), gradients, Sum<T>(0));
  }
  return own;
}

}  // namespace

template <class T>
OptionsOfLanes<T>::OptionsOfLanes(const Kernels<T>& kernels, const Call& call, bool backward) {
  const CellOptions& options = call.options;
  if (!options.on) return;
  const Sizes& s = call.sizes;
  const long lanes = s.layers * s.directions, B = s.batch, H = s.hidden, P = s.outputs;
  const Dtype dtype = call.dtype, sums = sum_dtype(dtype);
  scratch_ = fresh(Buffer{lanes, 1, B * (3 * P + 3 * std::max(H, P)), true}, dtype);
  if (options.recurrent > 0) {
    recurrent_ = fresh(Buffer{B, lanes, P, true}, dtype);
    Dropout rule = dropout_of(options.recurrent, call.seed);  // of the whole's seed, the last
    rule.seed = data_of<int64_t>(*call.seed)[call.seed->numel() - 1];
    Sum<T>* const values = data_of<Sum<T>>(recurrent_);
    run_on_team([&](const Worker& worker) {
      kernels.draw_mask(worker, recurrent_.numel(), recurrent, rule, values);
    });
    if (!backward) {
      fed_ = fresh(Buffer{lanes, 2 * B, P}, dtype);
      const Tensor h0 = call.h0.to(sums), fed = fresh_like(h0);
      Sum<T>* const out = data_of<Sum<T>>(fed);
      for (long i = 0; i < lanes * B * P; ++i) {
        const long lane = i / (B * P), b = i / P % B;
        out[i] = data_of<Sum<T>>(h0)[i] * values[(b * lanes + lane) * P + i % P];
      }
      fed_first_ = fed.to(dtype);
    }
  }
  cell_ = s.cell;
  hidden_ = H;
  if (options.norm) {
    own_ = norm_memory(kernels, s, backward, sums);
    zeros_ = zeros({B, s.cell.h_gates() * H}, sums);
    if (!backward && !s.cell.is_lstm) {
      made_ = fresh(Buffer{lanes, B, s.cell.x_gates() * H, true}, dtype);
    }
    if (s.bias) {
      biases_ = fresh(Buffer{lanes, 1, s.cell.gradients() * H, true}, dtype);
    }
  }
  if (backward && options.peephole) dw_ch_ = zeros({lanes, B, vectors_of(s.cell) * s.column_units()}, sums);
  if (backward && s.projected && !s.cell.saves_h) {
    unprojected_ = fresh(Buffer{lanes, s.rows, H}, dtype);
  }
  for (long lane = 0; lane < lanes; ++lane) {
    Parts<Sum<T>> parts{part_of<Sum<T>>(scratch_, lane)};
    LaneOptions<T> lane_options{};
    lane_options.zoneout_h = zoneout<T>(call, lane, options.zoneout_h, zoneout_h, P, parts);
    lane_options.zoneout_c = zoneout<T>(call, lane, options.zoneout_c, zoneout_c,
                                         s.state_units(), parts);
    if (backward && lane_options.zoneout_h.values) lane_options.carried = parts.take(B * P);
    if (options.recurrent > 0) lane_options.recurrent = part_of<Sum<T>>(recurrent_, 0) + lane * P;
    lane_options.recurrent_stride = lanes * P;
    lane_options.fed = part_of<T>(fed_, lane);
    lane_options.fed_first = part_of<T>(fed_first_, lane);
    lane_options.w_ch = call.data_of_lane<Sum<T>>(call.weights, lane, Weight::w_ch);
    if (options.norm) normalize(lane_options, call, lane);
    if (options.norm && backward) lane_options.dh = parts.take(B * H);
    lane_options.dw_ch = part_of<Sum<T>>(dw_ch_, lane);
    lane_options.unprojected = part_of<T>(unprojected_, lane);
    lanes_.push_back(lane_options);
  }
}

template <class T>
void OptionsOfLanes<T>::normalize(LaneOptions<T>& lane_options, const Call& call, long index) {
  const auto of_cell = [&](Weight kind) {
    return call.data_of_lane<Sum<T>>(call.weights, index, kind);
  };
  lane_options.gain_ih = of_cell(Weight::gain_ih);
  lane_options.gain_hh = of_cell(Weight::gain_hh);
  lane_options.gain_c = of_cell(Weight::gain_c);
  lane_options.zeros = part_of<Sum<T>>(zeros_, 0);
  lane_options.own = part_of<Sum<T>>(own_, index);
  lane_options.made = part_of<Sum<T>>(made_, index);
  lane_options.own_size = own_.size(2);
  if (!biases_.defined()) return;
  const auto bias_of = [&](Weight kind) {
    return call.of_lane(call.weights, index, kind)->to(sum_dtype(call.dtype));
  };
  const Tensor ih = bias_of(Weight::b_ih), hh = bias_of(Weight::b_hh);
  const Sum<T>*const of_x = data_of<Sum<T>>(ih), *const of_h = data_of<Sum<T>>(hh);
  Sum<T>* const bias = part_of<Sum<T>>(biases_, index);
  const CellShape& shape = cell_;  // of h alone, sums, of x alone: m, r, z, n of a GRU
  const long H = hidden_, both = shape.sums * H;
  Sum<T>* const sums = std::copy_n(of_h + both, shape.of_h * H, bias);
  std::transform(of_x, of_x + both, of_h, sums, std::plus<Sum<T>>());
  std::copy_n(of_x + both, shape.of_x * H, sums + both);
  lane_options.bias = bias;
  lane_options.bias_c = of_cell(Weight::bias_c);
}

// The sum of rows, of their elements begin to end.
template <class T, class Out>
void sum_rows(const Tensor& matrices, long index, long begin, long end, Out* out) {
  const long rows = matrices.size(1), columns = matrices.size(2);
  const T* const from = part_of<T>(matrices, index);
  for (long j = begin; j < end; ++j) {
    T sum = 0;
    for (long i = 0; i < rows; ++i) sum += from[i * columns + j];
    out[j - begin] = static_cast<Out>(sum);
  }
}

template <class T>
void OptionsOfLanes<T>::gradients(const Call& call, const Tensors& dweights, long index) const {
  const auto sum = [&](const Tensor& matrices, Weight kind, long begin) {
    const Tensor* const out = call.of_lane(dweights, index, kind);
    if (!out) return;
    sum_rows<Sum<T>>(matrices, index, begin, begin + out->numel(), data_of<Sum<T>>(*out));
  };
  const CellShape& shape = cell_;
  const long H = hidden_, gains = shape.gradients();
  if (dw_ch_.defined()) sum(dw_ch_, Weight::w_ch, 0);
  if (!own_.defined()) return;
  sum(own_, Weight::gain_ih, gains * H);
  sum(own_, Weight::gain_hh, (gains + shape.x_gates()) * H);
  sum(own_, Weight::gain_c, 12 * H);
  sum(own_, Weight::bias_c, 13 * H);
}

template <class T>
void OptionsOfLanes<T>::bias_gradients(long index, T* ih, T* hh) const {
  using Out = std::conditional_t<std::is_same_v<T, Bf16>, c10::BFloat16, T>;
  const long H = hidden_;
  const auto sum = [&](long begin, long end, T* out) {
    sum_rows<Sum<T>>(own_, index, begin * H, end * H, reinterpret_cast<Out*>(out));
  };
  const CellShape& shape = cell_;
  sum(shape.of_h, shape.gradients(), ih);
  sum(shape.of_h, shape.h_gates(), hh);
  sum(0, shape.of_h, hh + shape.sums * H);
}

template class OptionsOfLanes<float>;
template class OptionsOfLanes<double>;
template class OptionsOfLanes<Bf16>;

}  // namespace fused_lstm
