// The forward pass of all lanes, as the plan says: buffers, pointers, dropout between layers. With
// backward.cpp the one place for that: nothing leaves C++ between two layers.
#include <algorithm>
#include <type_traits>
#include <utility>

#include "isa/prepared.h"
#include "ops/call.h"
#include "phases.h"

namespace fused_lstm {
namespace {

// h_n and c_n of a lane: the states of each row's last step in the lane's order. Of an RNN both are h.
template <class T>
void last_states(const Lane<T>& lane, T* h_n, Sum<T>* c_n) {
  long b = 0;
  for (long t = lane.reverse ? 0 : lane.steps - 1; t >= 0; --t) {
    for (long n = lane.arguments.first[t] + b; n < lane.arguments.first[t + 1]; ++n, ++b) {
      const T* const h = lane.results.y + n * lane.results.y_stride;
      std::copy_n(h, lane.outputs, h_n + b * lane.outputs);
      if (!lane.results.c) {
        using E = std::conditional_t<std::is_same_v<T, Bf16>, c10::BFloat16, T>;
        std::copy_n(reinterpret_cast<const E*>(h), lane.outputs, c_n + b * lane.outputs);
      } else if (lane.results.c != c_n) {
        const long width = c_width(lane);
        std::copy_n(lane.results.c + (lane.save ? n : b) * width, width, c_n + b * width);
      }
    }
  }
}

template <class T>
struct ForwardPass {
  const Kernels<T>& kernels;
  const Call& call;
  const Sizes& s;
  const bool save;
  const Plan plan;
  const Dtype dtype;
  const OptionsOfLanes<T> options;
  Forward out;
  Tensor input_part, product, by_h, unprojected, ready, totals, numbers, dropped;
  Tensors b_m;  // of each lane, where its weights are narrow

  ForwardPass(const Kernels<T>& kernels, const Call& call, bool save)
      : kernels(kernels),
        call(call),
        s(call.sizes),
        save(save),
        plan(plan_of(s, machine_of(kernels, team_size(), meeting_time),
                     save ? Pass::forward : Pass::inference, call.together)),
        dtype(call.dtype),
        options(kernels, call, false) {}

  // A layer's output; the last one's is y.
  T* output(long layer) const {
    const long above = s.layers - 1 - layer;
    if (above == 0) return data_of<T>(out.y);
    if (plan.h.count == s.layers - 1) return part_of<T>(out.h, layer);
    return above % 2 && plan.h.count ? part_of<T>(out.h, 0) : data_of<T>(out.y);
  }

  const T* input(long layer) const {
    if (layer == 0) return data_of<T>(call.x);
    if (!dropped.defined()) return output(layer - 1);
    return part_of<T>(dropped, plan.wavefront ? layer - 1 : 0);
  }

  void allocate() {
    out.y = fresh(call.shape(s.width()), dtype);
    out.h_n = fresh_like(call.h0);
    out.c_n = fresh_like(call.c0);
    const auto kept = [&](const Buffer& buffer) {
      return save ? fresh(call.shape(buffer.count, buffer.columns), dtype_of(buffer, dtype))
                  : fresh(buffer, dtype);
    };
    out.h = kept(plan.h);
    out.c = kept(plan.c);
    out.gates = kept(plan.gates);
    input_part = fresh(plan.input_part, dtype);
    product = fresh(plan.product, dtype);
    by_h = fresh(plan.by_h, dtype);
    unprojected = fresh(plan.unprojected, dtype);
    ready = fresh(plan.ready, dtype);
    totals = fresh(plan.totals, dtype);
    numbers = fresh(plan.numbers, dtype);
    dropped = fresh(plan.dropped, dtype);
    const CellShape& cell = s.cell;
    if (!narrow() || s.given || !cell.apart() || !s.bias) return;
    for (long index = 0; index < s.lanes(); ++index) {
      const Tensor& bias = *call.of_lane(call.weights, index, Weight::b_hh);
      b_m.push_back(bias.rows_from(cell.sums * s.hidden).to(dtype));
    }
  }

  // Whether weights are narrower than what they are computed with.
  bool narrow() const { return plan.is_short && s.narrow && !s.prepared; }

  // nn.LSTM's as they are computed with; of prepared ones the biases alone.
  Weights<T> own_weights(long index) const {
    if (narrow()) return {};
    Weights<T> own = weights_of<T>(call, index);
    if (s.prepared) {  // of which the biases alone are plain numbers
      own.w_ih = own.w_hh = own.w_hr = nullptr;
      std::fill_n(own.w_inner, InnerProducts::most, nullptr);
    }
    return own;
  }

  // In what is kept of a step: a GRU's r, z, n, behind m, or an RNN's y.
  void place_input_part(Lane<T>& lane) const {
    if constexpr (std::is_same_v<T, Sum<T>>) {
      const CellShape& cell = s.cell;
      const LaneResults<T>& to = lane.results;
      lane.scratch.input_part =
          cell.saved ? to.gates + (cell.saved - cell.x_gates()) * s.hidden : to.y;
      lane.scratch.input_stride = cell.saved ? cell.saved * s.hidden : lane.results.y_stride;
    }
  }

  Lane<T> lane(long index) const {
    const long layer = index / s.abreast(), slot = index % plan.abreast;
    Lane<T> lane =
        lane_of(kernels, call, own_weights(index), options, index, input(layer), output(layer));
    if (s.cell.saved > 0) {
      lane.results.c = plan.c.count ? part_of<Sum<T>>(out.c, index % plan.c.count)
                            : part_of<Sum<T>>(out.c_n, index);
    }
    lane.results.gates = part_of<T>(out.gates, save ? index : slot);
    lane.scratch.input_part = part_of<Sum<T>>(input_part, index % std::max(plan.input_part.count, 1L));
    lane.input_in_step = layer == 0 ? plan.input_in_step : plan.input_in_step_above;
    lane.in_place = plan.in_place && !lane.input_in_step;
    if (lane.in_place) place_input_part(lane);
    if (!b_m.empty()) lane.weights.b_m = data_of<T>(b_m[index]);
    lane.scratch.product = part_of<Sum<T>>(product, slot);
    lane.scratch.by_h = part_of<Sum<T>>(by_h, slot);
    if (s.norm && save) set_products(lane, call, out.c, index);
    lane.scratch.unprojected = part_of<T>(unprojected, slot);
    lane.scratch.ready = part_of<T>(ready, plan.wavefront ? index : slot);
    lane.scratch.totals = part_of<Sum<T>>(totals, slot);
    lane.results.numbers = save ? numbers_of<T>(call, out.c, index) : part_of<Sum<T>>(numbers, slot);
    lane.chunk = plan.chunk;
    lane.save = save;
    return lane;
  }

  void finish(const Lane<T>& lane, long index) const {
    last_states(lane, part_of<T>(out.h_n, index), part_of<Sum<T>>(out.c_n, index));
  }

  void in_turns() {
    const SweepScratch<T> scratch(plan, dtype);
    for (long layer = 0; layer < s.layers; ++layer) {
      std::vector<Lane<T>> lanes;
      for (long n = 0; n < s.abreast(); ++n) lanes.push_back(lane(layer * s.abreast() + n));
      run_on_team(plan.team, [&](const Worker& worker) {
        for_lanes(worker, s.abreast(), plan, [&](const Worker& own, long n, long first) {
          kernels.sweep_forward(own, lanes[n], scratch.of(n % plan.abreast, first));
        });
      });
      for (long n = 0; n < s.abreast(); ++n) finish(lanes[n], layer * s.abreast() + n);
      clear_rest(call, output(layer), s.width());
      if (dropped.defined() && layer + 1 < s.layers) {
        drop_layer(kernels, call, layer, output(layer), part_of<T>(dropped, 0));
      }
    }
  }

  // All layers in one go, in phases: nothing is packed, so they share no scratch. own(index): a lane's
  // weights.
  template <class W, class Own>
  void in_one_go(const PhasedSweep<T, W>& sweep, const Own& own) {
    // Phases from `first` on: of `count` lanes from `lane` on; or, of 0, one of the layer's dropout.
    struct Stretch {
      long first, lane, count, layer;
    };
    const long at_once = s.given ? s.heads : plan.abreast, size = s.rows * s.width();
    std::vector<Lane<T>> lanes;
    std::vector<W> weights;
    std::vector<Stretch> stretches;
    Phases phases{};
    for (long index = 0; index < s.lanes(); ++index) {
      const long layer = index / s.abreast();
      lanes.push_back(lane(index));
      if (sweep.own_cell) {
        const auto& cells = call.isa->cells;
        const long number = call.cell - cells.data();
        CHECK_VALUE(number >= 0 && number < static_cast<long>(cells.size()), "weights: got ",
                    call.cell->name, "'s in int8 or bfloat16, whose functions have other vectors than"
                    " these products here; expected float32 or weight_only");
        lanes.back().functions = sweep.own_cell(number).functions;
      }
      weights.push_back(own(index));
      if (index % at_once == 0) {
        stretches.push_back({phases.count, index, at_once, layer});
        phases.count += plan.each_alone() ? 1 : sweep.phases(lanes[index], weights[index]);
      }
      if ((index + 1) % s.abreast() || !dropped.defined() || layer + 1 == s.layers) continue;
      stretches.push_back({phases.count++, index, 0, layer});
    }
    if (plan.wavefront) phases.count = s.steps + s.layers - 1;
    // A phase of a wavefront: a step of each layer, one behind the layer below. A lane has a phase a step.
    const auto diagonal = [&](long phase, const Worker& worker) {
      for (long layer = worker.id; layer < s.layers; layer += worker.count) {
        const long place = phase - layer;
        if (place >= 0 && place < s.steps) sweep.run(Worker{}, lanes[layer], weights[layer], place);
      }
    };
    const auto run = [&](long phase, const Worker& worker) {
      if (plan.wavefront) return diagonal(phase, worker);
      auto at = stretches.end() - 1;
      while (at->first > phase) --at;
      if (at->count == 0) {
        kernels.dropout(worker, size, at->layer * size, call.dropout, output(at->layer),
                        part_of<T>(dropped, 0));
        return;
      }
      const long first = phase - at->first;
      for_lanes(worker, at->count, plan, [&](const Worker& part, long n, long) {
        const Lane<T>& lane = lanes[at->lane + n];
        const W& lane_weights = weights[at->lane + n];
        // A worker that has a lane to itself runs all of the lane's phases in one.
        const long end = plan.each_alone() ? sweep.phases(lane, lane_weights) : first + 1;
        for (long k = first; k < end; ++k) sweep.run(part, lane, lane_weights, k);
      });
    };
    phases.parts = plan.alone ? 1 : plan.team;
    phases.nanoseconds = plan.nanoseconds;
    phases.by_team = plan.by_team;
    phases.argument = const_cast<void*>(static_cast<const void*>(&run));
    phases.run = [](void* argument, long phase, const Worker& worker) {
      (*static_cast<decltype(run)*>(argument))(phase, worker);
    };
    run_phases(phases);
    for (size_t index = 0; index < lanes.size(); ++index) finish(lanes[index], index);
    for (long layer = 0; layer < s.layers; ++layer) clear_rest(call, output(layer), s.width());
  }

  void as_short() {
    if (s.prepared) return as_prepared();
    if (!narrow()) {
      return in_one_go(kernels.short_forward, [&](long i) { return weights_of<T>(call, i); });
    }
    if constexpr (std::is_same_v<T, float>) {
      in_one_go(kernels.short_forward_bf16, [&](long i) { return weights_of<Bf16>(call, i); });
    }
  }

  void as_prepared() {
    if constexpr (std::is_same_v<T, float>) {
      const Prepared kind = call.prepared;
      const bool in_steps = plan.input_in_step && (s.layers == 1 || plan.input_in_step_above);
      const long rows = in_steps ? s.batch : std::min(plan.chunk * s.batch, s.rows), widest = s.input().depth;
      // Of a worker: x's rows whose product is made at once, and behind them h's of a step.
      const long of_x = prepared::left_bytes(kind, rows, widest);
      const long size = of_x + prepared::left_bytes(kind, s.batch, std::max(s.outputs, s.hidden));
      const long floats = size / static_cast<long>(sizeof(float));
      const Tensor left = floats > 0 ? fresh(Dimensions({s.directions, plan.team, floats}), dtype) : Tensor();
      const long gates = s.cell.x_gates();
      long bytes = 0;
      for (const Tensor& weight : call.weights) bytes += weight.numel() * bytes_of(weight.dtype());
      const long ahead = prepared::ahead_here(bytes / plan.team);
      in_one_go(prepared_sweep(*call.isa, kind, rows), [&](long index) {
        const Weights<uint8_t> own = weights_of<uint8_t>(call, index);
        const auto matrix = [&](const uint8_t* packed, const WeightShape& shape, bool of_h = true) {
          PreparedMatrix made =
              packed ? prepared::matrix_of(kind, packed, call.apart, shape) : PreparedMatrix{};
          made.left = reinterpret_cast<uint8_t*>(part_of<float>(left, index % s.directions)) + of_h * of_x;
          made.left_size = size;
          made.ahead = ahead;
          made.unit_rows = prepared::unit_rows(kind, shape.depth, s.steps == 1 && ahead > 0);
          return made;
        };
        const long inputs = index < s.directions ? s.inputs : s.width();
        PreparedWeights made{matrix(own.w_ih, {gates, s.hidden, inputs}, false),
                             matrix(own.w_hh, s.recurrent()),
                             matrix(own.w_hr, {1, s.outputs, s.hidden}), {}};
        for (long k = 0; k < s.cell.phases_inside(); ++k) {
          if (!s.cell.inner->is_product(k)) continue;
          made.w_inner[k] = matrix(own.w_inner[k], {s.cell.inner->columns[k], s.hidden, s.hidden});
        }
        return made;
      });
    }
  }

  void as_wavefront() {
    std::vector<Lane<T>> lanes;
    for (long index = 0; index < s.layers; ++index) lanes.push_back(lane(index));
    const Tensor packed = fresh(plan.packed, dtype);
    const Wavefront<T> wave = wavefront_of(call, lanes, dropped, packed);
    run_on_team(plan.team, [&](const Worker& worker) { kernels.wavefront_forward(worker, wave); });
    for (long index = 0; index < s.layers; ++index) finish(lanes[index], index);
  }

  void run() {
    if (plan.is_short) return as_short();
    plan.wavefront ? as_wavefront() : in_turns();
  }
};

}  // namespace

Forward run_forward(const Call& call, bool save) {
  return with_factors(call.dtype, call.terms, *call.isa, [&](const auto& kernels) {
    ForwardPass pass(kernels, call, save);
    pass.allocate();
    pass.run();
    return std::move(pass.out);
  });
}

}  // namespace fused_lstm
