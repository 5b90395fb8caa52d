// Instructions that a lane carries out alone: `lanewise<f>` reads f's arguments from the operands
// after the first, as f's signature types them, and writes its value to the first.
#pragma once

#include <tuple>
#include <utility>

#include "machine.h"

namespace ptx {

// What a register holds, as T. A 16-bit value is the low half of a 32-bit register.
template <class T>
struct Register {
  using Bits = std::conditional_t<sizeof(T) == 8, u64, u32>;
  static T read(Bits bits) {
    if constexpr (std::is_floating_point_v<T>) return std::bit_cast<T>(bits);
    else return static_cast<T>(bits);
  }
  static Bits write(T value) {
    if constexpr (std::is_floating_point_v<T>) return std::bit_cast<Bits>(value);
    else return static_cast<std::make_unsigned_t<T>>(value);
  }
};

// An operand's lanes.
template <class T>
struct Source {
  const typename Register<T>::Bits* lanes;
  Source(const Step& s, const Operand& o) {
    if constexpr (sizeof(T) == 8) lanes = s.m.source_64(s.w, o);
    else lanes = s.m.source_32(s.w, o);
  }
  T operator[](int lane) const { return Register<T>::read(lanes[lane]); }
};

template <>
struct Source<bool> {
  u32 bits;
  Source(const Step& s, const Operand& o) : bits(s.m.predicate(s.w, o)) {}
  bool operator[](int lane) const { return bits >> lane & 1; }
};

template <auto F, class R, class... A, size_t... K>
void apply(Step& s, R (*)(A...), std::index_sequence<K...>) {
  const std::tuple<Source<A>...> in{Source<A>(s, s.operand(K + 1))...};
  const auto value = [&](int lane) { return F(std::get<K>(in)[lane]...); };
  if constexpr (std::is_same_v<R, bool>) {
    u32 bits = 0;
    for (int lane = 0; lane < LANES; lane++) bits |= static_cast<u32>(value(lane)) << lane;
    s.m.set_predicate(s.w, s.operand(0), bits, s.lanes);
  } else {
    typename Register<R>::Bits* out;
    if constexpr (sizeof(R) == 8) out = s.m.target_64(s.w, s.operand(0));
    else out = s.m.target_32(s.w, s.operand(0));
    if (s.lanes == ALL_LANES) {
      for (int lane = 0; lane < LANES; lane++) out[lane] = Register<R>::write(value(lane));
    } else {
      for (int lane = 0; lane < LANES; lane++)
        if (s.lanes >> lane & 1) out[lane] = Register<R>::write(value(lane));
    }
  }
}

template <class R, class... A>
constexpr auto indices(R (*)(A...)) {
  return std::index_sequence_for<A...>{};
}

template <auto F>
void lanewise(Step& s) {
  apply<F>(s, +F, indices(+F));
}

}  // namespace ptx
