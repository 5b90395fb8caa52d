// What a call's cell has beside nn.LSTM's: masks, buffers and weights of each lane.
#include <algorithm>

#include "ops/call.h"

namespace fused_lstm {
namespace {

using at::Tensor;

// Kinds of masks, as kernels/fused_lstm/cell.py numbers their elements.
constexpr unsigned long long zoneout_h = 1ull << 56, zoneout_c = 2ull << 56, recurrent = 3ull << 56,
                             candidate = 4ull << 56;

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

// Of a zoneout, which keeps where dropout would drop; outside training it is its expectation.
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

}  // namespace

template <class T>
AddedLanes<T>::AddedLanes(const Kernels<T>& kernels, const Call& call, bool backward) {
  const CellOptions& cell = call.cell;
  if (!cell.on) return;
  const Sizes& s = call.sizes;
  const long lanes = s.layers * s.directions, B = s.batch, H = s.hidden, P = s.outputs;
  const auto options = call.x.options(), sums = options.dtype(sum_dtype(call.dtype));
  scratch_ = fresh(Buffer{lanes, 1, B * (3 * P + 5 * H), true}, options);
  if (cell.recurrent > 0) {
    recurrent_ = fresh(Buffer{B, lanes, P, true}, options);
    Dropout rule = dropout_of(cell.recurrent, call.seed);  // of the whole's seed, the last
    rule.seed = call.seed->template const_data_ptr<int64_t>()[call.seed->numel() - 1];
    Sum<T>* const values = data_of<Sum<T>>(recurrent_);
    run_on_team([&](const Worker& worker) {
      kernels.draw_mask(worker, recurrent_.numel(), recurrent, rule, values);
    });
    if (!backward) {
      fed_ = fresh(Buffer{lanes, 2 * B, P}, options);
      fed_first_ = (call.h0 * recurrent_.transpose(0, 1)).to(call.dtype).contiguous();
    }
  }
  hidden_ = H;
  vectors_ = static_cast<long>(call.vectors.size()) / lanes;
  if (cell.norm) {
    own_ = at::zeros({lanes, team_size(), 20 * H}, sums);
    zeros_ = at::zeros({B, 4 * H}, sums);
    if (call.per_lane >= 4) biases_ = fresh(Buffer{lanes, 1, 4 * H, true}, options);
  }
  if (backward && cell.peephole) dw_ch_ = at::zeros({lanes, B, 3 * H}, sums);
  if (backward && s.projected) unprojected_ = fresh(Buffer{lanes, s.rows, H}, options);
  for (long lane = 0; lane < lanes; ++lane) {
    Parts<Sum<T>> parts{part_of<Sum<T>>(scratch_, lane)};
    Added<T> added{};
    added.zoneout_h = zoneout<T>(call, lane, cell.zoneout_h, zoneout_h, P, parts);
    added.zoneout_c = zoneout<T>(call, lane, cell.zoneout_c, zoneout_c, H, parts);
    if (cell.candidate > 0) {
      added.candidate = {parts.take(2 * B * H), H, true, dropout_of(cell.candidate, call.seed),
                         candidate + lane * s.steps * B * H};
    }
    if (backward && cell.zoneout_h > 0) added.carried = parts.take(B * P);
    if (cell.recurrent > 0) added.recurrent = part_of<Sum<T>>(recurrent_, 0) + lane * P;
    added.recurrent_stride = lanes * P;
    added.fed = part_of<T>(fed_, lane);
    added.fed_first = part_of<T>(fed_first_, lane);
    if (cell.peephole) added.w_ch = data_of<Sum<T>>(call.vectors[lane * vectors_]);
    if (cell.norm) normalize(added, call, lane);
    if (cell.norm && backward) added.dh = parts.take(B * H);
    added.dw_ch = part_of<Sum<T>>(dw_ch_, lane);
    added.unprojected = part_of<T>(unprojected_, lane);
    lanes_.push_back(added);
  }
}

template <class T>
void AddedLanes<T>::normalize(Added<T>& added, const Call& call, long index) {
  const Tensor* const own = &call.vectors[index * vectors_ + call.cell.peephole];
  added.gain_ih = data_of<Sum<T>>(own[0]);
  added.gain_hh = data_of<Sum<T>>(own[1]);
  added.gain_c = data_of<Sum<T>>(own[2]);
  added.zeros = part_of<Sum<T>>(zeros_, 0);
  added.own = part_of<Sum<T>>(own_, index);
  if (!biases_.defined()) return;
  const Tensor* const plain = &call.weights[index * call.per_lane];
  biases_[index][0].copy_(plain[2]).add_(plain[3]);
  added.bias = part_of<Sum<T>>(biases_, index);
  added.bias_c = data_of<Sum<T>>(own[3]);
}

template <class T>
std::vector<Tensor> AddedLanes<T>::gradients() const {
  std::vector<Tensor> found;
  for (long index = 0; index < static_cast<long>(lanes_.size()); ++index) {
    if (dw_ch_.defined()) found.push_back(dw_ch_[index].sum(0));
    if (!own_.defined()) continue;
    const Tensor all = own_[index].sum(0);
    const auto part = [&](long begin, long end) {
      return all.slice(0, begin * hidden_, end * hidden_).clone();
    };
    for (const Tensor& gradient : {part(4, 8), part(8, 12), part(12, 13)}) {
      found.push_back(gradient);
    }
    if (biases_.defined()) found.push_back(part(13, 14));
  }
  return found;
}

template <class T>
Tensor AddedLanes<T>::bias_gradient(long index) const {
  return own_[index].slice(1, 0, 4 * hidden_).sum(0);
}

template class AddedLanes<float>;
template class AddedLanes<double>;
template class AddedLanes<Bf16>;

}  // namespace fused_lstm
