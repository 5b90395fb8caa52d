// The kernels of prepared weights for one instruction set, as isa/body.h has the others: included by
// the files beside it, which say which.

// All from outside, before the target and the visibility: its inline functions are every file's.
#include <cstddef>
#include <cstdint>
#include <utility>

#include "isa/prepared.h"
#if defined(FL_TARGET)
#include <immintrin.h>
#endif

#define FL_PRAGMA(...) FL_PRAGMA_OF(__VA_ARGS__)
#define FL_PRAGMA_OF(...) _Pragma(#__VA_ARGS__)

#if defined(FL_TARGET) && defined(__clang__)
FL_PRAGMA(clang attribute push(__attribute__((target(FL_TARGET))), apply_to = function))
#elif defined(FL_TARGET)
FL_PRAGMA(GCC push_options)
FL_PRAGMA(GCC target(FL_TARGET))
#if FL_BYTES == 64
FL_PRAGMA(GCC target("prefer-vector-width=512"))
#endif
#endif

FL_PRAGMA(GCC visibility push(hidden))
#include "sweep_prepared.h"
FL_PRAGMA(GCC visibility pop)

#if defined(FL_TARGET) && defined(__clang__)
FL_PRAGMA(clang attribute pop)
#elif defined(FL_TARGET)
FL_PRAGMA(GCC pop_options)
#endif
