// The code of every instruction that is not lane by lane; instructions.cpp has the table.
#pragma once

#include "machine.h"

namespace ptx {

// convert.cpp
void move(Step& s);
void compare(Step& s);
void convert(Step& s);
void convert_pair_bf16(Step& s);
void convert_pair_half(Step& s);

// access.cpp
void load(Step& s);
void store(Step& s);
void atomic(Step& s);
void fence(Step& s);

// matrix.cpp
void load_matrix(Step& s);
void store_matrix(Step& s);
void multiply_half(Step& s);
void multiply_bf16(Step& s);
void multiply_tf32(Step& s);
void multiply_double(Step& s);
void multiply_double_8x8(Step& s);

// copy.cpp
void copy(Step& s);
void commit_copies(Step& s);
void wait_for_copies(Step& s);

// wgmma.cpp
void wgmma(Step& s);
void wgmma_fence(Step& s);
void commit_products(Step& s);
void wait_for_products(Step& s);
void proxy_fence(Step& s);

// control.cpp
void branch(Step& s);
void leave(Step& s);
void trap(Step& s);
void barrier(Step& s);
void meet(Step& s);
void shuffle(Step& s);
void vote(Step& s);
void reduce(Step& s);
void active_mask(Step& s);

}  // namespace ptx
