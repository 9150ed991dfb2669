// Sizes of the tokens' distances on the GPU and what follows from them. csrc/README.md says how to try others.
#pragma once

#include <cstdint>

namespace ssm {

// Furthest apart that two tokens with an edge are; tree_ssm/ops/token_distance knows it too.
constexpr int kReach = 3;

// Tokens of a warp, which also reads a halo of kReach rows behind them. They are so many that the sums, 7 · 3 products
// and 10 squares, leave one for each lane.
constexpr int kRunTokens = 7;
constexpr int kRunRows = kRunTokens + kReach;
constexpr int kProducts = kRunTokens * kReach;
constexpr int kRunSums = 32;
static_assert(kProducts + kRunRows <= kRunSums);

constexpr int kTokenWarps = 4;  // of a block

// Blocks that a multiprocessor must have registers for (__launch_bounds__). Left alone, the compiler takes 134
// registers for half types: a multiprocessor then holds three blocks, not four, and the kernel takes a third longer.
constexpr int token_min_blocks(int64_t item) {
  return item == 2 ? 4 : 3;
}

}  // namespace ssm
