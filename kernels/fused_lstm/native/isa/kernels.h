// The arguments that an operator hands to the code of one instruction set: pointers and sizes.
//
// T, B, N: time steps, batch, rows of all steps. I, H, P: input size, hidden size, output size.
// G: gates of the cell, K: its saved columns a unit (`CellShape`). Tensors are contiguous unless a
// stride is given. W: lanes of a vector. A "block" is W hidden units; the last one may be partial. T
// is what the factors of products are made of, Sum<T> what is summed, and kept from step to step.
#pragma once

#include <cstdint>

#include "isa/element.h"
#include "worker.h"

namespace fused_lstm {

// The pointwise part of a cell, of one instruction set and one kind of factors: Finish and FinishBack of
// cells/step.h. Null where there is none.
struct CellFunctions {
  void *finish = nullptr, *finish_back = nullptr, *derive = nullptr;
};

// How the units of a row meet: in a product with a matrix, or in one number of the row.
enum class InnerKind : long { product, sum, maximum };

// Products inside a cell's step, of a value of the step and a weight [columns * units, depth] each. They
// divide it into phases: the first begins with R h, every other one with a product. The cell's own
// functions are those of the first phase, and backwards of the last.
//
// A sum of a row's units is such a product too, with a matrix of ones that does not exist: every unit has
// the row's sum. The matrix is symmetric, so the gradient by what was summed is the sum of the gradients by
// the sum. So is a maximum, which has no gradient. What follows from sums alone is one number of a row.
//
// A phase's values have as many units as what it begins with: in phase 0 the gates', in others what the
// product makes, behind a sum what the next product or sum is of, or a result. A state may have fewer units
// than h. Each such width has an early phase, which comes before all others, forwards and backwards, and
// does what waits for no product.
struct InnerProducts {
  static constexpr long most = 24, most_early = 8;

  long count = 0;
  InnerKind kind[most] = {};
  long number[most] = {};   // of each among the products, or among sums and maxima
  long matrices = 0, sums = 0;  // how many there are of these
  long numbers = 0;         // of a row: all sums, and what the cell makes of them
  // Whether a phase behind a sum, and the phase before one backwards, has work of units.
  bool works[most] = {}, works_back[most] = {};
  long columns[most] = {};  // of a unit, that each makes: 1 to 4
  long fed[most] = {};      // the saved column that each multiplies
  // Whether the workers meet before a product, forwards and backwards. They need not where what it
  // multiplies was made before the last meeting.
  bool meets[most] = {}, meets_back[most] = {};
  bool compares = false;  // whether the backward finds a maximum among what it is of: see saved_dtype
  // Which widths are one, since values meet: for gates, what each product makes, what it multiplies, and
  // each input of the cell the number of the least such: 0 h, 1 gates, 2 + k what product k makes, -1 - k
  // what it multiplies.
  long width_of_gates = 0, width[most] = {}, factor[most] = {}, width_of_input[most] = {};
  // Finish of the phase that begins with a product, FinishBack of the one before, by FactorKind.
  CellFunctions functions[5][most] = {};
  long early = 0;  // phases
  long width_of_early[most_early] = {};
  long early_of_state[most_early] = {-1, -1, -1, -1, -1, -1, -1, -1};  // -1: a state as wide as h
  CellFunctions early_functions[5][most_early] = {};

  constexpr bool is_product(long k) const { return kind[k] == InnerKind::product; }

  // Returns the n-th that is a product with a matrix.
  constexpr long product(long n) const {
    long k = 0;
    while (!is_product(k) || number[k] != n) ++k;
    return k;
  }

  constexpr long meetings() const {
    long sum = 0;
    for (long k = 0; k < count; ++k) sum += meets[k];
    return sum;
  }

  // Elements of Lane::totals for each worker; lanes: of a vector.
  constexpr long totals_size(long batch, long lanes) const { return batch * sums * lanes; }
};

// The sizes of a call's products inside a step.
struct InnerSizes {
  long units[InnerProducts::most] = {};  // that each makes of every column
  long depth[InnerProducts::most] = {};  // that each multiplies, or adds up
  double share[InnerProducts::most] = {};  // 1 / depth
  long states = 0;                       // of h; states lie so far apart
  long early[InnerProducts::most_early] = {};  // of each early phase
  // Where each of the cell's inputs begins in a row of them all, and how long that is.
  long input_at[InnerProducts::most] = {}, inputs = 0;
  // The most units of a phase. Columns that a step saves, weights of a unit and gradients that wait
  // for a phase lie so far apart.
  long widest = 0;
};

// Tells sweeps what they must know of a cell. Columns are a unit's. A gate is W x + R h; or both terms are
// stored separately, as n's of a GRU: its term of x alone, and m, of h alone; or it has only one of them. i, f, g, o of
// an LSTM are sums, i, g, o where gates are coupled, and r and z of a GRU. Rows of w_ih are
// the sums', then those of x alone; rows of w_hh the sums', then those of h alone. The gradients by all
// gates, dgates, are those of h alone, of sums, of x alone: m, r, z, n.
struct CellShape {
  long sums, of_h, of_x;
  long saved;              // K: columns that the backward reads; 0 where y is enough, as of an RNN
  long inputs = 0;         // numbers of a step, or of a unit, that nothing multiplies: cell_inputs
  long states = 1;         // columns of c, where anything is saved
  long weights = 0;        // [H] each, that the pointwise part reads
  bool saves_h = false;    // the last saved column is h, of a cell whose h is projected
  bool c_is_h = false;     // c is h before it is rounded, not a state of its own
  bool in_layers = true;   // the operator lstm has it
  bool is_lstm = false;    // nn.LSTM's cell or its coupled form, which have options of their own
  const InnerProducts* inner = nullptr;  // or none: R h is a step's only product

  constexpr long phases_inside() const { return inner ? inner->count : 0; }
  constexpr long x_gates() const { return sums + of_x; }  // G: rows of w_ih
  constexpr long h_gates() const { return sums + of_h; }  // rows of w_hh
  constexpr long gradients() const { return of_h + sums + of_x; }  // columns of dgates
  constexpr bool apart() const { return of_h + of_x > 0; }  // whether the two biases' gradients differ
  constexpr long products() const { return x_gates() + h_gates(); }  // columns of W x and of R h
  // Whether a tile of registers has all of a unit's gates, as those of torch.nn's cells.
  constexpr bool in_tiles() const {
    return of_h == of_x && of_h <= 1 && sums > 0 && h_gates() <= 4 && !inner;
  }
  // Whether tiles have all gates of x, and all of h, beside each other or not.
  constexpr bool fits_tiles() const {
    return x_gates() > 0 && x_gates() <= 4 && h_gates() > 0 && h_gates() <= 4;
  }
};

// Names what products of a set's kernels are made of.
enum class FactorKind { float32, float64, bfloat16, one_term, two_terms };

// A cell that operators know by its name, of one instruction set: the library's own, or one that was
// compiled at run time.
struct Cell {
  const char* name;
  CellShape shape;
  CellFunctions functions[5];  // by FactorKind
  CellFunctions with_options[5];  // those for a lane that has LaneOptions, where they are others
};

// What the library of a cell exports that was compiled at run time: functions of the kinds of factors that
// it was compiled for.
struct CompiledCell {
  CellShape shape;
  InnerProducts inner;
  CellFunctions functions[3];  // by FactorKind
};

// Whether a cell is compiled for a kind of factors.
inline bool has_functions(const Cell& cell, FactorKind factors) {
  return cell.functions[static_cast<long>(factors)].finish;
}

// The library's own, of one kind of factors.
struct OwnCell {
  const char* name;  // null behind the last one
  CellShape shape;
  CellFunctions functions, with_options;
};

// A weight that a product is made with: `gates` matrices [units, depth], one under another.
struct WeightShape {
  long gates, units, depth;
};

// Rows that are normalized at once: a cell's functions keep a CPU busy with several.
constexpr long rows_abreast = 8;

// Elements of a mask: `dropped` with the probability, else `kept`.
struct Dropout {
  float probability, kept;
  unsigned long long seed;
  float dropped = 0;
};

// A mask of each step's rows, [B, size]. It is drawn before the step, or always the same number.
template <class T>
struct StepMask {
  Sum<T>* values;            // [2, B, size] scratch, a step's and the next one's; null: no mask
  long size;                 // P or H
  bool drawn;
  Dropout rule;
  unsigned long long first;  // its element of step 0, row 0, unit 0
};

// A lane's options that nn.LSTM's cell does not have (docs/cells.md has formulas and names).
template <class T>
struct LaneOptions {
  StepMask<T> zoneout_h;     // of what is kept of the h before
  StepMask<T> zoneout_c;
  const Sum<T>* recurrent;   // [B, P] what h is multiplied by before w_hh, or null
  long recurrent_stride;     // of its rows
  T* fed;                    // [2, B, P] scratch, so multiplied, of a step and the one before;
  const T* fed_first;        // [B, P] of h0; or both null, and backwards
  const Sum<T>* w_ch;        // [3H] of i, f, o, or [2H] of i, o where gates are coupled, or null
  Sum<T>* dw_ch;             // [B, 3H] or so, backwards: the gradient, row by row, 0 at first
  Sum<T>* carried;           // [B, P] backwards, scratch: by the h before, from zoneout; or null
  T* unprojected;            // [N, H] backwards, scratch: h before it was projected; or null
  // For a lane that normalizes (its by_h is not null):
  const Sum<T> *gain_ih, *gain_hh;  // [G*H], [h_gates * H]
  const Sum<T>* bias;        // [gradients * H] as dgates, the sum of both biases of each; or null
  const Sum<T> *gain_c, *bias_c;    // [H] of an LSTM; bias_c with bias; else null
  const Sum<T>* zeros;       // [B, h_gates * H]
  Sum<T>* made;              // [B, G*H] forwards, scratch: x's part normalized; null for an LSTM
  Sum<T>* own;               // [workers, own_size]: backwards a worker's share of the gradients by
                             // bias, gain_ih, gain_hh, gain_c and bias_c, 0 at first; then memory for
                             // its rows
  long own_size;
  Sum<T>* dh;                // [B, H] backwards, scratch: by h before it was projected
};

// A head's columns of a matrix [N, G*H]: its units of a gate lie `gate` columns from those of the
// gate before. Without data there are none.
template <class T>
struct HeadColumns {
  T* data;                   // row 0, the head's first unit of the first gate
  long stride, gate;
};

// Inputs of a cell: columns likewise, or one number for all units.
template <class T>
struct OwnInputs {
  HeadColumns<T> columns;
  bool single;
};

// A lane's weights as they were given, of type E. With products inside the step gates have other units
// than H: see InnerSizes.
template <class E>
struct Weights {
  const E *w_ih, *w_hh;      // [G*H, I], [G*H, P]
  const E *b_ih, *b_hh;      // [G*H] or null
  const E* b_m;              // [M*H], b_hh of M gates of h alone, as of a GRU's n; or null
  const E* w_hr;             // [P, H], or null where h is not projected
  const E* w_inner[InnerProducts::most];  // [columns * units, depth] of products inside the step
};

// What the caller hands to a lane. x, h0 and the weights are factors of products.
template <class T>
struct LaneArguments {
  const T* x;                // [N, I], after dropout; or
  HeadColumns<const T> x_part;  // W x, which was made before the call
  OwnInputs<const T> cell_inputs;
  const T* h0;               // [B, P]
  const Sum<T>* c0;          // [B, H]
  const long* first;         // [T + 1]: the row that a step begins with
  const bool* not_reset;     // [N], false where a row's state is 0 before that step, or null
};

// What a lane writes and its backward reads: the caller's tensors.
template <class T>
struct LaneResults {
  T* y;                      // [N, P], a row every y_stride
  long y_stride;
  Sum<T>* c;                 // [N, H], or [B, H] where nothing is saved; null for an RNN
  T* gates;                  // [N, K*H] activated; where nothing is saved [B, K*H] or null
  Sum<T>* numbers;           // [N, numbers] of rows, behind all c; where nothing is saved [B, numbers]; or
                             // null
};

// Memory of the call's, which no backward reads, except for products that are normalized.
template <class T>
struct LaneScratch {
  Sum<T>* input_part;        // [rows of `chunk` steps, G*H], or in `gates` or y
  long input_stride;         // of its rows
  Sum<T>* product;           // [B, h_gates * H]: h w_hh' of a cell that is not `in_tiles`
  Sum<T>* by_h;              // [N, h_gates * H], or [B, ..] where nothing is saved: h w_hh' where the
                             // lane normalizes it, and input_part then is [N, G*H] and saved; or null
  T* unprojected;            // [B, H], or null
  T* ready;                  // x and h as a matrix unit reads them (`ready_size`), or null
  Sum<T>* totals;            // of sums inside a step: each worker's own [sums, B, W]; or null
  Sum<T>* by_sums;           // each worker's own [B, sums], the gradients by what sums add up; or null
};

// One layer in one direction, or a head of one: a lane. Step t's rows are the rows first[t] .. first[t + 1]
// of every tensor of N rows; there are never more of them than at the step before, and row b of a step is
// row b of the states. A lane's own order is that of time, or where `reverse` the opposite, so that
// a row begins, at h0 and c0, where it is alive for the first time in that order.
template <class T>
struct Lane {
  long steps, batch, inputs;
  long hidden, outputs;      // H, and P: H or, where h is projected, the rows of w_hr. With products
                             // inside a step gates have H units, and h has P
  InnerSizes inner;          // of these products
  CellShape cell;
  CellFunctions functions;   // the cell's
  const LaneOptions<T>* options;  // or null: the cell as it is in torch.nn
  bool reverse;
  bool save;                 // what a backward needs
  bool input_in_step;        // a step makes W x too, and input_part is a step's
  long chunk;                // steps whose input product is made at once
  bool in_place;             // input_part is all rows', in `gates` or y, not a chunk's
  LaneArguments<T> arguments;
  Weights<T> weights;
  LaneResults<T> results;
  LaneScratch<T> scratch;
};

// How far states lie apart: the units of h before it is projected.
template <class T>
constexpr long state_units(const Lane<T>& lane) {
  return lane.cell.inner ? lane.inner.states : lane.hidden;
}

// Elements of a row of c.
template <class T>
constexpr long c_width(const Lane<T>& lane) {
  return lane.cell.states * state_units(lane);
}

// Elements of a row of what is saved.
template <class T>
constexpr long saved_width(const Lane<T>& lane) {
  return lane.cell.saved * (lane.cell.inner ? lane.inner.widest : lane.hidden);
}

template <class T>
constexpr WeightShape input_shape(const Lane<T>& lane) {
  return {lane.cell.x_gates(), lane.hidden, lane.inputs};
}

template <class T>
constexpr WeightShape recurrent_shape(const Lane<T>& lane) {
  return {lane.cell.h_gates(), lane.hidden, lane.outputs};
}

// Gradients that arrive at a lane, by what it made.
template <class T>
struct GradientOfResults {
  const Sum<T>* dy;          // [N, P], a row every y_stride, or null
  const Sum<T>* dh_n;        // [B, P] or null
  const Sum<T>* dh_each;     // as dy, by h itself, of which a layer above reads a part dropped; or null
  const Sum<T>* dc;          // [N, H], by c after each step, or null
};

// Gradients that a lane makes, by what it was handed.
template <class T>
struct GradientOfArguments {
  Sum<T>* dx;                // [N, I] or null
  bool add;                  // to dx, which another lane began
  HeadColumns<T> dx_part;    // by LaneArguments::x_part
  HeadColumns<T> dcell_inputs;  // by LaneArguments::cell_inputs, of each unit
  Sum<T>* dh0;               // [B, P]
  Sum<T>* dc0;               // [B, H], dc_n (or 0) at first: the running dc
};

// Gradients by a lane's weights: shapes as in Weights. b_ih is null without biases, b_hh where its
// gradient is that of b_ih.
template <class T>
struct GradientOfWeights {
  T *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
  T* w_inner[InnerProducts::most];
};

// Memory of the call's.
template <class T>
struct GradientScratch {
  T* by_inner[InnerProducts::most];  // blocks_size(columns, units, N), by what each product made
  Sum<T>* arrived;           // [B, count * widest], see CellStepBack
  Sum<T>* partial;           // sums of the weights' gradients, or null where N is one part (see Shapes)
  T* dgates;                 // blocks_size(CellShape::gradients, H, N); where the lane normalizes, by
                             // h w_hh'
  T* by_x;                   // the same by x w_ih', where the lane normalizes; or null
  T* dh;                     // blocks_size(1, P, N), or null
  T* sampled;                // for each worker,
  long sampled_size;         // this many elements, blocks of a sample's rows
};

template <class T>
struct LaneGradient {
  Sum<T> clip;               // what comes through w_hh is cut to [-clip, clip]; or 0
  // Gradients of the weights sample by sample, [samples, ...]: how many samples a step's rows are of, with
  // as many rows each; or 0. Not with bfloat16, nor with layer normalization.
  long samples;
  GradientOfResults<T> results;
  GradientOfArguments<T> arguments;
  GradientOfWeights<T> weights;
  GradientScratch<T> scratch;
};

// A lane's forward pass in phases (see phases.h): how many there are, and one of them. W: its weights.
template <class T, class W>
struct PhasedSweep {
  long (*phases)(const Lane<T>&, const W&);
  void (*run)(const Worker&, const Lane<T>&, const W&, long phase);
  // One of the library's cells, where this sweep has other vectors than the lane's functions; or null.
  OwnCell (*own_cell)(long number);
};

// Scratch that outlives no call: a lane's weights packed, and a panel for each worker.
template <class T>
struct Scratch {
  T* recurrent;
  T* panels;
};

// All layers of a call, for wavefront.h: lanes of equal lengths that feed each other.
template <class T>
struct Wavefront {
  const Lane<T>* lanes;
  const LaneGradient<T>* gradients;  // of as many; backward only
  long count;
  Dropout dropout;
  T* dropped;                // [L-1, N, H], x of the layers above the first, or null
  T* packed;                 // scratch: for each layer,
  long packed_size;          // this many elements
};

// A chunk of rows of linear_cross_entropy. N, H, V: rows, inputs, classes.
template <class T>
struct Loss {
  long rows, inputs, classes;
  const T* hidden;           // [N, H]
  const T* weight;           // [V, H]
  const Sum<T>* bias;        // [V] or null
  const int64_t* target;     // [N], -1 where ignored
  const Sum<T>* row_grad;    // [N], gradients by the losses; null: only the losses are wanted
  Sum<T>* loss;              // [N]
  Sum<T>* dhidden;           // [N, H]
  Sum<T>* dweight;           // [V, H]
  Sum<T>* dbias;             // [V] or null
  bool add;                  // to dweight and dbias, which earlier chunks began
  Sum<T>* logits;            // scratch: blocks_size(1, N, V)
  T* exponentials;           // the same; may be `logits`
  T* scaled;                 // scratch: [N, H]
  Sum<T>* maxima;            // scratch: [workers, N up to a whole vector]
  Sum<T>* sums;              // the same
  Sum<T>* scale;             // scratch: [N up to a whole vector]
  Sum<T>* picked;            // the same
};

struct Shape {
  long rows, vectors;
};

// The sizes that follow from an instruction set's registers and caches: see shapes.h.
struct Shapes {
  long lanes;                // of a vector
  long registers;
  Shape gates, plain, transposed;  // tiles
  long panel_size;           // elements of Scratch::panels for each worker
  long rows_at_once;         // in a weight's gradient; of more, T keeps no sums
};

template <class T>
struct Kernels {
  const char* name;
  FactorKind factors;
  Shapes shapes;
  OwnCell (*own_cell)(long number);  // the number-th of the library's cells
  // Returns the elements of Scratch::recurrent. inputs: those of a lane whose steps make W x too, or 0.
  long (*recurrent_size)(const WeightShape& recurrent, long inputs, bool projected);
  long (*wavefront_size)(const WeightShape& input);  // of Wavefront::packed_size
  long (*blocks_size)(long groups, long units, long rows);  // of a matrix in blocks: see blocks.h
  long (*ready_size)(long rows, long depth);  // of LaneScratch::ready, or 0: rows are read as they lie

  void (*cell)(const Worker&, long batch, long hidden, const T* gates, const T* c, T* h, T* c_next);
  void (*cell_backward)(const Worker&, long batch, long hidden, const T* gates, const T* c,
                        const T* c_next, const T* dh, const T* dc_next, T* dgates, T* dc);
  void (*sweep_forward)(const Worker&, const Lane<T>&, const Scratch<T>&);
  // A sweep for few rows, with weights that are read as they lie; those in the lane are not used.
  PhasedSweep<T, Weights<T>> short_forward;
  PhasedSweep<T, Weights<Bf16>> short_forward_bf16;  // T: float
  void (*sweep_backward)(const Worker&, const Lane<T>&, const LaneGradient<T>&, const Scratch<T>&);
  // dx and the weights' gradients, from what the sweep left; all workers begin after its end.
  void (*gradients)(const Worker&, const Lane<T>&, const LaneGradient<T>&, T* panels);
  void (*wavefront_forward)(const Worker&, const Wavefront<T>&);
  void (*wavefront_backward)(const Worker&, const Wavefront<T>&, T* panels);
  // out[n] = in[n] * mask(first + n); in and out may be the same.
  void (*dropout)(const Worker&, long count, long first, const Dropout&, const T* in, T* out);
  void (*dropout_gradient)(const Worker&, long count, long first, const Dropout&, const Sum<T>* in,
                           Sum<T>* out);
  void (*draw_mask)(const Worker&, long count, uint64_t first, const Dropout&, Sum<T>* out);
  void (*cross_entropy)(const Worker&, const Loss<T>&, T* panels);
  // bfloat16 to float32, and to the nearest one back; T: float.
  void (*widen)(const Bf16* from, float* to, long count);
  void (*narrow)(const float* from, Bf16* to, long count);
};

}  // namespace fused_lstm
