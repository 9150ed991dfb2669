// Sizes of the selective subtree scan's CUDA kernels. Those of its walk are in tree/cuda/tuning.h.
#pragma once

#include "tree/cuda/tuning.h"

namespace ssm {

// States that a thread holds in registers, all those of one channel: there are kernels for up to 4 and for up to 16.
// Wider states are scanned in parts by Python (tree_ssm/ops/subtree_scan), which knows kMostStates too.
constexpr int kMostStates = 16;
constexpr int kFewStates = 4;
constexpr int held_states(int64_t states) {
  return states <= kFewStates ? kFewStates : kMostStates;
}

// Channels of a block, one a thread.
constexpr int kSubtreeSlice = kWarp;

// Chunks in the ring of rows.
constexpr int kSubtreeRing = kShallowRing;

// The backward pass takes kChunk steps together and makes their states again from what came into the chunk.
constexpr int64_t subtree_chunks(int64_t length) {
  return (length + kChunk - 1) / kChunk;
}

// How many subtrees at most wait for their siblings from one chunk into the next: three forks at most can begin to wait
// in one chunk of 8 steps and be open at its end, since each waits for at least as many vertices as those inside it
// have, 1 + 3 + 7 > 7.
constexpr int kMostCrossing = 3;
static_assert(kChunk == 8, "kMostCrossing counts the forks of chunks of 8 steps");

}  // namespace ssm
