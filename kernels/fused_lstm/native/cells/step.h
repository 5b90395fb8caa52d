// The inputs and outputs of a cell in one time step; the matrix products are done before. Forwards a cell
// gets the sums of a product's tile by gates, backwards those of dh. It is called through a pointer, once for
// each tile, whose sums then lie in memory, so that no product is compiled again for another cell.
#pragma once

#include "product/blocks.h"

namespace fused_lstm::FL_ISA {

#define FL_APART __attribute__((noinline))

template <class T>
struct CellStep;
template <class T>
struct CellStepBack;

// sums: all of the gates before activation, of `rows` rows from `row` on by the units of `blocks`
// blocks from `unit` on, [rows][blocks][G]. They may be overwritten.
template <class T>
using Finish = void (*)(const CellStep<T>& step, long unit, long row, long rows, long blocks,
                        Vec<T>* sums);

// Of a phase behind a sum: makes the numbers of `rows` rows from `row` on that follow from sums.
template <class T>
using Derive = void (*)(const CellStep<T>& step, long row, long rows);

// dh: the gradients by h, of `rows` rows by the units of `blocks` blocks from `first` on.
template <class T>
using FinishBack = void (*)(const CellStepBack<T>& step, long first, long row, long rows,
                            long blocks, const Vec<T>* dh);

// b below is a row of the batch.
template <class T>
struct CellStep {
  const Lane<T>* lane;
  Finish<T> finish;
  long place;
  long hidden;
  const bool* not_reset;     // [B], false where the state before is 0, or null
  const Sum<T>* c;      // [B, H] before
  const Sum<T>* input_part;  // [B, G*H] of the gates, a row every `input_stride`
  long input_stride;
  const T* own;              // LaneArguments::cell_inputs of row 0
  T* gates;             // [B, K*H] activated, or null
  Sum<T>* c_next;       // [B, H]
  T* h;                 // [B, H], a row every `stride`
  long stride;
  Sum<T>* totals;       // the worker's part of LaneScratch::totals
  Sum<T>* numbers;      // [B, numbers]

  FL_INLINE bool kept(long b) const { return !not_reset || not_reset[b]; }
};

template <class T>
struct CellStepBack {
  const Lane<T>* lane;
  FinishBack<T> finish;
  long place;
  long hidden;
  const bool* not_reset;   // [B], as above
  const T* gates;     // [B, K*H] activated
  const Sum<T>* c;    // [B, H] before, of the first `continued` rows,
  const Sum<T>* c0;   // and of the others, which begin here
  long continued;
  const Sum<T>* c_next;  // [B, H]
  const T* h;         // [B, H] of an RNN, a row every `stride`
  long stride;
  Sum<T>* dc;         // [B, H], by c_next; then by c
  const Sum<T>* dc_given;  // [B, H], by c_next too, from outside; or null
  HeadColumns<T> by_own;  // of the place's rows
  Blocks<T> dgates;   // by all gates; row b is its row `line` + b
  T* const* by_inner; // by what each product inside the step made, as GradientScratch::by_inner
  Sum<T>* arrived;    // of each, by what they multiplied, but the first; then by h
  long line;
  Sum<T>* totals;     // the worker's part of LaneScratch::totals
  const Sum<T>* numbers;  // [B, numbers]
  Sum<T>* by_sums;    // the worker's part of LaneScratch::by_sums

  FL_INLINE bool kept(long b) const { return !not_reset || not_reset[b]; }
  FL_INLINE const Sum<T>* before(long b) const {
    return (b < continued ? c : c0) + b * hidden;
  }
};

template <class T>
FL_INLINE void store_block(const Blocks<T>& blocks, long gate, long block, long row, Vec<T> v,
                           long width) {
  store_left(blocks.at(gate * blocks.in_group() + block, row), v, width);
}

// Returns a worker's part of a lane's totals.
template <class T>
FL_INLINE Sum<T>* totals_of(const Lane<T>& lane, long worker) {
  if (!lane.scratch.totals) return nullptr;
  return lane.scratch.totals + worker * lane.cell.inner->totals_size(lane.batch, W<T>);
}

// Where a worker adds up a row's units for sum j, in its part.
template <class T>
FL_INLINE Sum<T>* total_of_units(const Lane<T>& lane, Sum<T>* totals, long j, long b) {
  return totals + (j * lane.batch + b) * W<T>;
}

// Gradients by what product k inside a step makes.
template <class T>
FL_INLINE Blocks<T> made_by(const Lane<T>& lane, long k, T* data) {
  return {data, lane.cell.inner->columns[k], lane.inner.units[k], lane.arguments.first[lane.steps]};
}

}  // namespace fused_lstm::FL_ISA
