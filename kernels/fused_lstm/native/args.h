// What an operator hands to the code of one instruction set: plain pointers and sizes.
//
// T, B, I, H: time steps, batch, input size, hidden size. Tensors are contiguous; gate order
// i, f, g, o. W: lanes of a vector. A "block" is W hidden units; the last one may be partial.
#pragma once

#include <cstdint>

#include "team.h"

namespace fused_lstm {

template <class T>
struct Layer {
  long steps, batch, inputs, hidden;
  const T* x;                // [T, B, I], after dropout
  const T* h0;               // [B, H]
  const T* c0;               // [B, H]
  const T* w_ih;             // [4H, I]
  const T* w_hh;             // [4H, H]
  const T* b_ih;             // [4H] or null
  const T* b_hh;             // [4H] or null
  T* y;                      // [T, B, H]
  T* c;                      // [T, B, H], or [B, H] where nothing is saved
  T* gates;                  // [T, B, 4H] activated, or [chunk, B, 4H] scratch
  long chunk;                // steps whose input product is made at once
  bool save;
};

template <class T>
struct LayerGradient {
  const T* dy;               // [T, B, H] or null
  const T* dh_n;             // [B, H] or null
  T* dx;                     // [T, B, I] or null
  T* dh0;                    // [B, H]
  T* dc0;                    // [B, H], dc_n (or 0) at first: the running dc
  T* dw_ih;                  // [4H, I]
  T* dw_hh;                  // [4H, H]
  T* db;                     // [4H] or null
  T* dgates;                 // scratch: see steps_backward.h
};

// Scratch that outlives no call: `recurrent` holds w_hh packed, `panels` a panel for each worker.
template <class T>
struct Scratch {
  T* recurrent;
  T* panels;
};

struct Dropout {
  float probability, scale;
  unsigned long long seed;
};

// All layers of a call, for wavefront.h.
template <class T>
struct Wavefront {
  const Layer<T>* layers;
  const LayerGradient<T>* gradients;  // of as many; backward only
  long count;
  Dropout dropout;
  T* dropped;                // [L-1, T, B, H], x of the layers above the first, or null
  T* packed;                 // scratch: for each layer,
  long packed_size;          // this many elements
};

// A chunk of rows of linear_cross_entropy. N, H, V: rows, inputs, classes.
template <class T>
struct Loss {
  long rows, inputs, classes;
  const T* hidden;           // [N, H]
  const T* weight;           // [V, H]
  const T* bias;             // [V] or null
  const int64_t* target;     // [N], -1 where ignored
  const T* row_grad;         // [N], gradients by the losses; null: only the losses are wanted
  T* loss;                   // [N]
  T* dhidden;                // [N, H]
  T* dweight;                // [V, H]
  T* dbias;                  // [V] or null
  bool add;                  // to dweight and dbias, which earlier chunks began
  T* logits;                 // scratch: logits_size
  T* scaled;                 // scratch: [N, H]
  T* maxima;                 // scratch: [workers, N up to a whole vector]
  T* sums;                   // the same
  T* scale;                  // scratch: [N up to a whole vector]
  T* picked;                 // the same
};

// A product by itself, for products.h.
//
// The left factor is a matrix [rows, groups * units]. input: [4 * units, columns] is on the right,
// and for logits [units, columns] with the left one [rows, columns].
enum class Product { input, step, step_back, rows, columns, logits };

template <class T>
struct Factors {
  Product product;
  long rows, batch, groups, units, columns;
  const T *left, *right;
  T* out;
  T *blocks, *packed, *panels;  // scratch
};

template <class T>
struct Kernels {
  const char* name;
  long lanes;
  long (*recurrent_size)(long hidden);         // elements of Scratch::recurrent
  long (*wavefront_size)(long inputs, long hidden);  // of Wavefront::packed_size
  long (*dgates_size)(long rows, long hidden); // of LayerGradient::dgates, rows = T * B
  long (*logits_size)(long rows, long classes); // of Loss::logits
  long panel_size;                             // of Scratch::panels, for each worker

  void (*cell)(const Worker&, long batch, long hidden, const T* gates, const T* c, T* h, T* c_next);
  void (*cell_backward)(const Worker&, long batch, long hidden, const T* gates, const T* c,
                        const T* c_next, const T* dh, const T* dc_next, T* dgates, T* dc);
  void (*forward)(const Worker&, const Layer<T>&, const Scratch<T>&);
  void (*backward)(const Worker&, const Layer<T>&, const LayerGradient<T>&, const Scratch<T>&);
  void (*wavefront_forward)(const Worker&, const Wavefront<T>&);
  void (*wavefront_backward)(const Worker&, const Wavefront<T>&, T* panels);
  // out[n] = in[n] * mask(first + n); in and out may be the same.
  void (*dropout)(const Worker&, long count, long first, const Dropout&, const T* in, T* out);
  void (*cross_entropy)(const Worker&, const Loss<T>&, T* panels);

  // For bench.products (see products.h).
  void (*prepare_product)(const Factors<T>&, bool after);
  void (*one_product)(const Worker&, const Factors<T>&);
  long (*best_product)(long count, T* factors);  // of panel_size
};

}  // namespace fused_lstm
