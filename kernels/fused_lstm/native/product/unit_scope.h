// A matrix unit while a worker multiplies with it.
#pragma once

#include "isa/simd.h"

namespace fused_lstm::FL_ISA {

#if defined(FL_UNIT) && !defined(FL_EMULATED)

// The memory that LDTILECFG reads. Sums are in registers 0 to 3. Of up to 16 rows the left factor is in 4
// and 6, the right one in 5. More rows are two nearly equal parts: the second one's sums are in 2 and
// 3, the left factor in 4 and 5, the right one in 6 and 7.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16];
};

constexpr uint8_t upper_rows(int rows) { return rows <= 16 ? rows : (rows + 1) / 2; }

constexpr TileConfig config_of(uint8_t upper, uint8_t lower) {
  if (lower == 0) return {.rows = {upper, upper, upper, upper, upper, 16, upper, 16}};
  return {.rows = {upper, upper, lower, lower, upper, lower, 16, 16}};
}

// By a tile's rows, less one.
struct TileConfigs {
  TileConfig of[32];
};

constexpr TileConfigs make_configs() {
  TileConfigs all{};
  for (int rows = 1; rows <= 32; ++rows) {
    all.of[rows - 1] = config_of(upper_rows(rows), rows - upper_rows(rows));
  }
  return all;
}

constexpr TileConfigs configs = make_configs();

// The unit is configured for tiles of so many rows when the first of them begins: LDTILECFG takes 200
// cycles on an Emerald Rapids, as twelve products of registers do. At the scope's end the unit is
// given back: a thread that holds it costs more to switch from.
class UnitScope {
 public:
  FL_INLINE ~UnitScope() {
    if (rows_) asm volatile("tilerelease" ::: "memory");
  }

  FL_INLINE void configure(long rows) {
    if (rows_ == rows) return;
    asm volatile("ldtilecfg %0" ::"m"(configs.of[rows - 1]));
    rows_ = rows;
  }

 private:
  long rows_ = 0;
};

#else

struct UnitScope {
  FL_INLINE void configure(long) {}
};

#endif

}  // namespace fused_lstm::FL_ISA
