// The C++ kernels of what every CPU of an architecture has (isa/base.cpp: NEON on Arm, SSE2 on x86)
// on fixed random data, without PyTorch: a line for each result, its dtype, its name, its values.
// tests/kernels/native/test_arm.py runs it for both and compares. Results and scratch are NaN beforehand.
#include <array>
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "isa/kernels.h"

namespace fused_lstm {

namespace base {
extern const Kernels<float> float_kernels;
extern const Kernels<double> double_kernels;
}  // namespace base

struct Barrier {
  std::barrier<> meet;
};

void Worker::sync() const {
  if (count > 1) barrier->meet.arrive_and_wait();
}

namespace {

template <class Body>
void run_team(long workers, const Body& body) {
  Barrier barrier{std::barrier<>(workers)};
  std::vector<std::thread> team;
  for (long id = 0; id < workers; ++id) {
    team.emplace_back([&, id] { body(Worker{id, workers, &barrier}); });
  }
  for (std::thread& one : team) one.join();
}

// A case's memory, its random numbers, and where its results go.
template <class T>
class Data {
 public:
  explicit Data(const std::string& name) : name(name) {}

  T* fresh(long count) {
    return memory.emplace_back(count, std::numeric_limits<T>::quiet_NaN()).data();
  }

  T* random(long count, double scale = 1) {
    T* const data = fresh(count);
    for (long i = 0; i < count; ++i) data[i] = static_cast<T>(scale * (draw() / 2147483648.0 - 1));
    return data;
  }

  void print(const std::string& result, const T* values, long count) const {
    std::printf("float%d %s/%s", static_cast<int>(8 * sizeof(T)), name.c_str(), result.c_str());
    for (long i = 0; i < count; ++i) std::printf(" %.17g", static_cast<double>(values[i]));
    std::printf("\n");
  }

 private:
  std::string name;
  std::deque<std::vector<T>> memory;  // of which none is ever moved
  std::mt19937 draw;
};

// --- lanes ---

struct Case {
  const char* name;
  long steps, batch, inputs, hidden, outputs;  // outputs < hidden: h is projected
  bool reverse, bias, ragged, not_reset;
};

constexpr Case cases[] = {
    {"plain", 4, 3, 5, 7, 7, false, true, false, false},
    {"whole-vectors", 3, 8, 8, 16, 16, false, true, false, false},
    {"reverse-without-bias", 5, 20, 17, 37, 37, true, false, false, false},
    {"projected", 4, 9, 6, 40, 19, false, true, false, false},
    {"ragged", 6, 9, 7, 35, 35, false, true, true, false},
    {"ragged-reverse-projected-kept", 5, 17, 4, 18, 11, true, true, true, true},
    {"kept", 3, 4, 6, 8, 8, false, true, false, true},
    {"ones", 1, 1, 1, 1, 1, false, true, false, false},
    {"parts-of-panels", 2, 30, 1600, 9, 9, false, true, false, false},
};

// A lane's arguments, and its gradients', for a forward pass that saves.
template <class T>
struct Layer {
  const Kernels<T>& kernels;
  Data<T>& data;
  std::vector<long> first{0};
  std::array<bool, 256> not_reset;
  Lane<T> lane{};
  LaneGradient<T> d{};
  long B, I, H, P, N;

  Layer(const Kernels<T>& kernels, Data<T>& data, const Case& of)
      : kernels(kernels), data(data), B(of.batch), I(of.inputs), H(of.hidden), P(of.outputs) {
    for (long t = 0; t < of.steps; ++t) {
      const long ended = of.ragged ? t * B / (of.steps + 1) : 0;
      first.push_back(first.back() + B - ended);
    }
    N = first.back();
    for (size_t n = 0; n < not_reset.size(); ++n) not_reset[n] = n % 3 != 1;
    lane = {of.steps, B, I, H, P, kernels.own_cell(0).shape, kernels.own_cell(0).functions,
            first.data(), of.reverse,
            of.not_reset ? not_reset.data() : nullptr};
    lane.scratch.input_stride = 4 * H;
    lane.arguments.x = data.random(N * I);
    lane.arguments.h0 = data.random(B * P);
    lane.arguments.c0 = data.random(B * H);
    lane.weights.w_ih = data.random(4 * H * I, 0.3);
    lane.weights.w_hh = data.random(4 * H * P, 0.3);
    lane.weights.b_ih = of.bias ? data.random(4 * H) : nullptr;
    lane.weights.b_hh = of.bias ? data.random(4 * H) : nullptr;
    lane.weights.w_hr = P < H ? data.random(P * H, 0.3) : nullptr;
    lane.results.y_stride = P;
    lane.scratch.unprojected = lane.weights.w_hr ? data.fresh(B * H) : nullptr;
    lane.chunk = of.steps;
    lane.save = true;
    allocate();
    d.dy = data.random(N * P);
    d.dh_n = data.random(B * P);
    d.dx = data.fresh(N * I);
    d.dh0 = data.fresh(B * P);
    d.dc0 = data.random(B * H);
    d.dw_ih = data.fresh(4 * H * I);
    d.dw_hh = data.fresh(4 * H * P);
    d.db_ih = of.bias ? data.fresh(4 * H) : nullptr;
    d.dw_hr = lane.weights.w_hr ? data.fresh(P * H) : nullptr;
    d.dgates = data.fresh(kernels.blocks_size(4, H, N));
    d.dh = data.fresh(kernels.blocks_size(1, P, N));
  }

  void allocate() {
    lane.results.y = data.fresh(N * P);
    lane.results.c = data.fresh(lane.save ? N * H : B * H);
    lane.results.gates = lane.save ? data.fresh(N * 4 * H) : nullptr;
    lane.scratch.input_part = lane.save ? lane.results.gates : data.fresh(lane.chunk * B * 4 * H);
  }

  Scratch<T> scratch(long workers) {
    return {data.fresh(kernels.recurrent_size({4, H, P}, lane.weights.w_hr)),
            data.fresh(workers * kernels.shapes.panel_size)};
  }

  void print(const std::string& suffix = "") const {
    data.print("y" + suffix, lane.results.y, N * P);
    data.print("c" + suffix, lane.results.c, N * H);
    data.print("gates" + suffix, lane.results.gates, N * 4 * H);
    data.print("dx" + suffix, d.dx, N * I);
    data.print("dh0" + suffix, d.dh0, B * P);
    data.print("dc0" + suffix, d.dc0, B * H);
    data.print("dw_ih" + suffix, d.dw_ih, 4 * H * I);
    data.print("dw_hh" + suffix, d.dw_hh, 4 * H * P);
    if (d.db_ih) data.print("db" + suffix, d.db_ih, 4 * H);
    if (d.dw_hr) data.print("dw_hr" + suffix, d.dw_hr, P * H);
  }
};

template <class T>
void run_sweeps(const Kernels<T>& kernels, const Case& of, long workers) {
  Data<T> data(std::string(of.name) + "-" + std::to_string(workers));
  Layer<T> layer(kernels, data, of);
  const Lane<T> saving = layer.lane;
  layer.lane.save = false;
  layer.lane.chunk = 2;
  layer.allocate();
  const Scratch<T> scratch = layer.scratch(workers);
  run_team(workers, [&](const Worker& w) { kernels.sweep_forward(w, layer.lane, scratch); });
  data.print("inference", layer.lane.results.y, layer.N * layer.P);
  layer.lane = saving;
  run_team(workers, [&](const Worker& w) { kernels.sweep_forward(w, layer.lane, scratch); });
  run_team(workers, [&](const Worker& w) {
    kernels.sweep_backward(w, layer.lane, layer.d, scratch);
    w.sync();
    kernels.gradients(w, layer.lane, layer.d, scratch.panels);
  });
  layer.print();
}

constexpr Dropout dropping{0.4f, 1 / 0.6f, 2305843009213694029ULL};

// Two layers, each whole on a worker, with dropout between them.
template <class T>
void run_wavefront(const Kernels<T>& kernels) {
  const Case of{"wavefront", 5, 6, 13, 13, 13, false, true, false, false};
  Data<T> data(of.name);
  Layer<T> below(kernels, data, of), above(kernels, data, of);
  T* const dropped = data.fresh(below.N * below.H);
  above.lane.arguments.x = dropped;
  T* const between = data.fresh(below.N * below.H);
  below.d.dy = above.d.dx = between;
  const Lane<T> lanes[] = {below.lane, above.lane};
  const LaneGradient<T> gradients[] = {below.d, above.d};
  const long size = kernels.wavefront_size({4, of.hidden, of.inputs});
  const Wavefront<T> wave{lanes, gradients, 2, dropping, dropped, data.fresh(2 * size), size};
  T* const panels = data.fresh(2 * kernels.shapes.panel_size);
  run_team(2, [&](const Worker& w) { kernels.wavefront_forward(w, wave); });
  run_team(2, [&](const Worker& w) { kernels.wavefront_backward(w, wave, panels); });
  below.print("_l0");
  above.print("_l1");
}

// --- the other kernels ---

template <class T>
void run_cell(const Kernels<T>& kernels, long workers) {
  constexpr long B = 5, H = 11, size = B * H;
  Data<T> data("cell-" + std::to_string(workers));
  const T* const gates = data.random(4 * size, 30);  // both tails
  const T* const c = data.random(size);
  const T *const dh = data.random(size), *const dc_next = data.random(size);
  T *const h = data.fresh(size), *const c_next = data.fresh(size);
  T *const dgates = data.fresh(4 * size), *const dc = data.fresh(size);
  run_team(workers, [&](const Worker& w) { kernels.cell(w, B, H, gates, c, h, c_next); });
  run_team(workers, [&](const Worker& w) {
    kernels.cell_backward(w, B, H, gates, c, c_next, dh, dc_next, dgates, dc);
  });
  data.print("h", h, size);
  data.print("c_next", c_next, size);
  data.print("dgates", dgates, 4 * size);
  data.print("dc", dc, size);
}

template <class T>
void run_dropout(const Kernels<T>& kernels, long workers) {
  constexpr long size = 1003, first = 4294967200;  // past 32 bits
  Data<T> data("dropout-" + std::to_string(workers));
  const T* const in = data.random(size);
  T* const out = data.fresh(size);
  run_team(workers, [&](const Worker& w) { kernels.dropout(w, size, first, dropping, in, out); });
  data.print("out", out, size);
}

template <class T>
void run_loss(const Kernels<T>& kernels, long workers, bool bias) {
  constexpr long N = 21, H = 13, V = 101;
  const long padded = (N + kernels.shapes.lanes - 1) / kernels.shapes.lanes * kernels.shapes.lanes;
  Data<T> data("loss-" + std::to_string(workers) + (bias ? "-bias" : ""));
  std::array<int64_t, N> target;
  for (long n = 0; n < N; ++n) target[n] = n % 5 == 3 ? -1 : n * 31 % V;
  Loss<T> loss{N, H, V, data.random(N * H), data.random(V * H)};
  loss.bias = bias ? data.random(V) : nullptr;
  loss.target = target.data();
  loss.row_grad = data.random(N);
  loss.loss = data.fresh(N);
  loss.dhidden = data.fresh(N * H);
  loss.dweight = data.fresh(V * H);
  loss.dbias = bias ? data.fresh(V) : nullptr;
  loss.logits = data.fresh(kernels.blocks_size(1, N, V));
  loss.exponentials = loss.logits;
  loss.scaled = data.fresh(N * H);
  loss.maxima = data.fresh(workers * padded);
  loss.sums = data.fresh(workers * padded);
  loss.scale = data.fresh(padded);
  loss.picked = data.fresh(padded);
  T* const panels = data.fresh(workers * kernels.shapes.panel_size);
  run_team(workers, [&](const Worker& w) { kernels.cross_entropy(w, loss, panels); });
  data.print("loss", loss.loss, N);
  data.print("dhidden", loss.dhidden, N * H);
  data.print("dweight", loss.dweight, V * H);
  if (bias) data.print("dbias", loss.dbias, V);
}

template <class T>
void run_all(const Kernels<T>& kernels) {
  for (const long workers : {1, 2}) {
    for (const Case& of : cases) run_sweeps(kernels, of, workers);
    run_cell(kernels, workers);
    run_dropout(kernels, workers);
    for (const bool bias : {true, false}) run_loss(kernels, workers, bias);
  }
  run_wavefront(kernels);
}

}  // namespace
}  // namespace fused_lstm

int main() {
  std::printf("%s\n", fused_lstm::base::float_kernels.name);
  fused_lstm::run_all(fused_lstm::base::float_kernels);
  fused_lstm::run_all(fused_lstm::base::double_kernels);
}
