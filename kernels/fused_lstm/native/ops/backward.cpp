// The backward pass of all lanes, as the plan says.
#include <algorithm>
#include <utility>

#include "ops/call.h"

namespace fused_lstm {
namespace {

template <class T>
struct BackwardPass {
  const Kernels<T>& kernels;
  const Call& call;
  const Forward &by, &saved;
  const Sizes& s;
  const Plan plan;
  const Dtype dtype, sums;
  const OptionsOfLanes<T> options;
  Backward out;
  Tensor dgates, dh, between, partial, sampled, dropped, by_inner, arrived, by_own, totals, by_sums;

  BackwardPass(const Kernels<T>& kernels, const Call& call, const Forward& by, const Forward& saved)
      : kernels(kernels),
        call(call),
        by(by),
        saved(saved),
        s(call.sizes),
        plan(plan_of(s, machine_of(kernels, team_size(), meeting_time), Pass::backward, call.together)),
        dtype(call.dtype),
        sums(sum_dtype(call.dtype)),
        options(kernels, call, true) {}

  void allocate(bool needs_dx) {
    const auto like = [&](const Tensor& tensor) { return fresh(tensor.sizes(), sums); };
    if (s.given) {
      out.dx = fresh(call.shape(s.given_columns()), dtype);
    } else {
      out.dx = needs_dx ? like(call.x) : fresh(nothing, sums);
    }
    out.dh0 = like(call.h0);
    out.dc0 = like(call.c0);
    Sum<T>* const dc0 = data_of<Sum<T>>(out.dc0);
    const bool running = s.cell.saved > 0 && by.c_n.defined();
    if (running) std::copy_n(data_of<Sum<T>>(by.c_n), by.c_n.numel(), dc0);
    if (!running) std::fill_n(dc0, out.dc0.numel(), Sum<T>(0));
    out.dweights.reserve(call.weights.size());
    for (const Tensor& weight : call.weights) {
      std::vector<int64_t> shape(weight.sizes().begin(), weight.sizes().end());
      if (s.samples > 0) shape.insert(shape.begin(), s.samples);
      out.dweights.push_back(fresh(shape, weight.dtype()));
    }
    if (call.b_m.defined()) {
      out.db = fresh(Dimensions({s.heads, s.cell.h_gates() * s.hidden}), dtype);
    }
    if (needs_dx && call.own.defined()) {
      by_own = inputs_alone() ? fresh(call.shape(call.own_columns), dtype)
                              : fresh(Dimensions({s.directions, s.rows, s.input_columns()}), dtype);
    }
    by_inner = fresh(plan.by_inner, dtype);
    arrived = fresh(plan.arrived, dtype);
    totals = fresh(plan.totals, dtype);
    by_sums = fresh(plan.by_sums, dtype);
    dgates = fresh(plan.dgates, dtype);
    dh = fresh(plan.dh, dtype);
    between = fresh(plan.between, dtype);
    partial = fresh(plan.partial, dtype);
    sampled = fresh(plan.sampled, dtype);
    dropped = fresh(plan.dropped, dtype);
  }

  T* output(long layer) const {
    return layer + 1 == s.layers ? data_of<T>(saved.y) : part_of<T>(saved.h, layer);
  }

  const T* input(long layer) const {
    if (layer == 0) return data_of<T>(call.x);
    if (!dropped.defined()) return output(layer - 1);
    return part_of<T>(dropped, plan.wavefront ? layer - 1 : 0);
  }

  // Gradients by a layer's output.
  Sum<T>* by_output(long layer) const {
    if (layer + 1 == s.layers) return part_of<Sum<T>>(by.y, 0);
    return part_of<Sum<T>>(between, plan.wavefront ? layer : 0);
  }

  Sum<T>* by_input(long layer) const {
    return layer > 0 ? by_output(layer - 1) : part_of<Sum<T>>(out.dx, 0);
  }

  Lane<T> lane(long index) const {
    const long layer = index / s.abreast();
    const auto own = weights_of<T>(call, index);
    Lane<T> lane = lane_of(kernels, call, own, options, index, input(layer), output(layer));
    lane.results.c = part_of<Sum<T>>(saved.c, index);
    lane.results.gates = part_of<T>(saved.gates, index);
    lane.save = true;
    if (s.norm) set_products(lane, call, saved.c, index);
    lane.scratch.totals = part_of<Sum<T>>(totals, index % s.abreast());
    lane.scratch.by_sums = part_of<Sum<T>>(by_sums, index % s.abreast());
    lane.results.numbers = numbers_of<T>(call, saved.c, index);
    return lane;
  }

  // The gradients that any lane has.
  LaneGradient<T> gradient_of(long index) const {
    const long layer = index / s.abreast(), slots = plan.dgates.count / (s.norm ? 2 : 1);
    Sum<T>* const dy = by_output(layer);
    LaneGradient<T> gradient{};
    gradient.results.dy = dy ? dy + index % s.abreast() * s.outputs : nullptr;
    gradient.results.dh_n = part_of<Sum<T>>(by.h_n, index);
    gradient.results.dc = part_of<Sum<T>>(by.c, index);
    if (layer + 1 < s.layers && by.h.defined()) {
      gradient.results.dh_each = part_of<Sum<T>>(by.h, layer) + index % s.abreast() * s.outputs;
    }
    gradient.arguments.dh0 = part_of<Sum<T>>(out.dh0, index);
    gradient.arguments.dc0 = part_of<Sum<T>>(out.dc0, index);
    gradient.scratch.partial = part_of<Sum<T>>(partial, index % slots);
    gradient.scratch.dgates = part_of<T>(dgates, index % slots);
    if (s.norm) gradient.scratch.by_x = part_of<T>(dgates, slots + index % slots);
    return gradient;
  }

  LaneGradient<T> gradient_of_head(long index) const {
    LaneGradient<T> gradient = gradient_of(index);
    T* const dx = data_of<T>(out.dx);
    gradient.arguments.dx_part = columns_of(call, dx, index);
    if (s.cell.inputs > 0) {
      gradient.arguments.dcell_inputs = columns_of(call, dx + s.heads * s.cell.x_gates() * s.hidden, index);
    }
    gradient.weights.w_hh = part_of<T>(out.dweights[0], index);
    gradient.weights.b_hh = part_of<T>(out.db, index);
    gradient.clip = static_cast<Sum<T>>(call.clip);
    return gradient;
  }

  LaneGradient<T> gradient(long index) const {
    if (s.given) return gradient_of_head(index);
    const long layer = index / s.directions, direction = index % s.directions;
    LaneGradient<T> gradient = gradient_of(index);
    gradient.arguments.dx = by_input(layer);
    gradient.arguments.add = direction > 0;
    const auto by_weight = [&](Weight kind, long k = 0) {
      return call.data_of_lane<T>(out.dweights, index, kind, k);
    };
    gradient.weights.w_ih = by_weight(Weight::w_ih);
    gradient.weights.w_hh = by_weight(Weight::w_hh);
    if (!s.norm) gradient.weights.b_ih = by_weight(Weight::b_ih);
    if (!s.norm && s.cell.apart()) gradient.weights.b_hh = by_weight(Weight::b_hh);
    gradient.weights.w_hr = by_weight(Weight::w_hr);
    gradient.scratch.dh = part_of<T>(dh, direction);
    if (by_own.defined()) {
      const long units = s.state_units();
      gradient.arguments.dcell_inputs = {part_of<T>(by_own, direction), s.input_columns(), units};
    }
    if (s.cell.inner) {
      T* blocks = part_of<T>(by_inner, direction);
      const InnerProducts& inner = *s.cell.inner;
      for (long k = 0; k < inner.count; ++k) {
        if (!inner.is_product(k)) continue;
        gradient.weights.w_inner[k] = by_weight(Weight::inner, inner.number[k]);
        gradient.scratch.by_inner[k] = blocks;
        blocks += kernels.blocks_size(inner.columns[k], s.inner.units[k], s.rows);
      }
      gradient.scratch.arrived = part_of<Sum<T>>(arrived, direction);
    }
    gradient.samples = s.samples;
    gradient.scratch.sampled = part_of<T>(sampled, 0);
    gradient.scratch.sampled_size = plan.sampled.columns;
    return gradient;
  }

  void run_layer(long layer, const SweepScratch<T>& scratch) const {
    std::vector<Lane<T>> lanes;
    std::vector<LaneGradient<T>> gradients;
    for (long n = 0; n < s.abreast(); ++n) {
      lanes.push_back(lane(layer * s.abreast() + n));
      gradients.push_back(gradient(layer * s.abreast() + n));
    }
    run_on_team(plan.team, [&](const Worker& worker) {
      for_lanes(worker, s.abreast(), plan, [&](const Worker& own, long n, long first) {
        const Scratch<T> memory = scratch.of(n % plan.abreast, first);
        kernels.sweep_backward(own, lanes[n], gradients[n], memory);
        if (!s.given) return;
        own.sync();  // a head's weights are its own
        kernels.gradients(own, lanes[n], gradients[n], memory.panels);
      });
      if (s.given) return;
      if (s.directions > 1) worker.sync();
      for (long d = 0; d < s.directions; ++d) {
        kernels.gradients(worker, lanes[d], gradients[d], scratch.of(0, 0).panels);
      }
    });
  }

  void in_turns() const {
    const SweepScratch<T> scratch(plan, dtype);
    for (long layer = s.layers - 1; layer >= 0; --layer) {
      const bool drops = layer > 0 && dropped.defined();
      if (drops) drop_layer(kernels, call, layer - 1, output(layer - 1), part_of<T>(dropped, 0));
      run_layer(layer, scratch);
      if (drops) drop_gradient(kernels, call, layer - 1, by_input(layer));
    }
  }

  void as_wavefront() const {
    std::vector<Lane<T>> lanes;
    std::vector<LaneGradient<T>> gradients;
    for (long index = 0; index < s.layers; ++index) {
      lanes.push_back(lane(index));
      gradients.push_back(gradient(index));
    }
    const Tensor packed = fresh(plan.packed, dtype), panels = fresh(plan.panels, dtype);
    Wavefront<T> wave = wavefront_of(call, lanes, dropped, packed);
    wave.gradients = gradients.data();
    run_on_team(plan.team, [&](const Worker& worker) {
      kernels.wavefront_backward(worker, wave, data_of<T>(panels));
    });
  }

  void finish() {
    if (s.given) return clear_rest(call, data_of<T>(out.dx), s.given_columns());
    for (long index = 0; index < s.lanes(); ++index) {
      const Tensor* const by_ih = call.of_lane(out.dweights, index, Weight::b_ih);
      T* const hh = call.data_of_lane<T>(out.dweights, index, Weight::b_hh);
      if (by_ih && s.norm) {
        options.bias_gradients(index, data_of<T>(*by_ih), hh);
      } else if (by_ih && !s.cell.apart()) {  // the two biases have one gradient
        std::copy_n(data_of<T>(*by_ih), by_ih->numel(), hh);
      }
      options.gradients(call, out.dweights, index);
    }
    if (by_own.defined()) join_inputs();
    Sum<T>* const dx = part_of<Sum<T>>(out.dx, 0);
    if (dx) clear_rest(call, dx, s.inputs + (by_own.defined() ? call.own_columns : 0));
  }

  // Whether the gradients by a cell's inputs are those by all of x.
  bool inputs_alone() const {
    return s.inputs == 0 && s.directions == 1 && call.own_columns > s.cell.inputs && dtype == sums;
  }

  // Puts the gradients by a cell's inputs behind those by x; of one number those of all units are summed.
  void join_inputs() {
    const long own = call.own_columns, columns = s.input_columns();
    const bool single = own == s.cell.inputs;
    if (inputs_alone()) {
      out.dx = by_own;
      return;
    }
    const Tensor dx = std::move(out.dx);
    out.dx = fresh(call.shape(s.inputs + own), sums);
    Sum<T>* to = data_of<Sum<T>>(out.dx);
    const Sum<T>* from = data_of<Sum<T>>(dx);
    for (long row = 0; row < s.rows; ++row, from += s.inputs) {
      to = std::copy_n(from, s.inputs, to);
      for (long k = 0; k < s.cell.inputs; ++k) {
        const long end = k + 1 < s.cell.inputs ? s.input_at(k + 1) : columns;
        const long units = end - s.input_at(k), each = single ? 1 : units;
        std::fill_n(to, each, Sum<T>(0));
        for (long direction = 0; direction < s.directions; ++direction) {
          const T* const of_units =
              part_of<T>(by_own, direction) + row * columns + s.input_at(k);
          for (long unit = 0; unit < units; ++unit) {
            to[single ? 0 : unit] += number(of_units[unit]);
          }
        }
        to += each;
      }
    }
  }

  static double number(double value) { return value; }
  static float number(float value) { return value; }
  static float number(Bf16 value) { return c10::BFloat16(value.bits, c10::BFloat16::from_bits()); }
};

}  // namespace

Backward run_backward(const Call& call, const Forward& by, const Forward& saved, bool needs_dx) {
  return with_factors(call.dtype, call.terms, *call.isa, [&](const auto& kernels) {
    BackwardPass pass(kernels, call, by, saved);
    pass.allocate(needs_dx);
    pass.plan.wavefront ? pass.as_wavefront() : pass.in_turns();
    pass.finish();
    return std::move(pass.out);
  });
}

}  // namespace fused_lstm
