// Sizes of the tokens' distances on the GPU and what follows from them. csrc/README.md says how to try others.
#pragma once

namespace ssm {

// Furthest apart that two tokens with an edge are; tree_ssm/ops/token_distance knows it too.
constexpr int kReach = 3;

// Tokens of a warp, which also reads the kReach rows behind them. It takes so many sums at once that one exchange over
// the warp leaves one to each lane: 7 · 3 products and 10 squares.
constexpr int kRunTokens = 7;
constexpr int kRunRows = kRunTokens + kReach;
constexpr int kProducts = kRunTokens * kReach;
constexpr int kRunSums = 32;
static_assert(kProducts + kRunRows <= kRunSums);

constexpr int kTokenWarps = 4;  // of a block

}  // namespace ssm
