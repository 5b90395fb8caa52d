// Which rows of a lane are alive at a step, and what they begin it with.
#pragma once

#include "product/step.h"

namespace fused_lstm::FL_ISA {

// The time of the place-th step in a lane's order.
template <class T>
FL_INLINE long time_of(const Lane<T>& lane, long place) {
  return lane.reverse ? lane.steps - 1 - place : place;
}

// Rows at a place; there are none before the first place and after the last.
template <class T>
FL_INLINE long alive(const Lane<T>& lane, long place) {
  if (place < 0 || place >= lane.steps) return 0;
  const long t = time_of(lane, place);
  return lane.arguments.first[t + 1] - lane.arguments.first[t];
}

// The first row of a place's step, of all N.
template <class T>
FL_INLINE long row_of(const Lane<T>& lane, long place) {
  return lane.arguments.first[time_of(lane, place)];
}

// All rows of the places from `begin` to `end`.
template <class T>
FL_INLINE Range rows_of(const Lane<T>& lane, long begin, long end) {
  if (lane.reverse) return {lane.arguments.first[lane.steps - end], lane.arguments.first[lane.steps - begin]};
  return {lane.arguments.first[begin], lane.arguments.first[end]};
}

// h of a row after a place, as w_hh is multiplied by it: two places take turns.
template <class T>
FL_INLINE T* fed_at(const Lane<T>& lane, long place, long row) {
  return lane.options->fed + (place % 2 * lane.batch + row) * lane.outputs;
}

// The states that rows of a step begin with: h [B, P]; h after its dropout, which w_hh is multiplied
// by; c [B, H].
template <class T>
struct Before {
  Rows<T> h, fed;
  const Sum<T>* c;
};

// body(rows, before) for the rows of a place that were alive at the one before, then for those that
// begin.
template <class T, class Body>
FL_INLINE void for_states_before(const Lane<T>& lane, long place, const Body& body) {
  const long rows = alive(lane, place), continued = min(rows, alive(lane, place - 1));
  for (int begins = 0; begins < 2; ++begins) {
    const Range range = begins ? Range{continued, rows} : Range{0, continued};
    if (range.begin == range.end) continue;
    const long before = begins ? 0 : row_of(lane, place - 1);
    const Sum<T>* c = lane.results.c;
    if (begins) c = lane.arguments.c0;
    else if (lane.save) c += before * c_width(lane);
    const Rows<T> h = begins ? Rows<T>{lane.arguments.h0, lane.outputs}
                             : Rows<T>{lane.results.y + before * lane.results.y_stride, lane.results.y_stride};
    Rows<T> fed = h;
    if (lane.options && lane.options->fed) {
      fed = {begins ? lane.options->fed_first : fed_at(lane, place - 1, 0), lane.outputs};
    }
    body(range, Before<T>{h, fed, c});
  }
}

}  // namespace fused_lstm::FL_ISA
