// What the host hands to the selective scan's CUDA kernels by value, and the launchers, one translation unit a type.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "selective_scan/params.h"

namespace ssm {

// A thread walks kTokens positions of one or two neighbouring channels; kLanes threads side by side make one row of a
// tile, and up to kMaxSubchunks of these rows, one after another along the sequence, a block. A block takes the tiles
// of one stretch of the sequence one by one.
constexpr int kTokens = 7;  // 49, 196, 784 and 3136 positions leave few threads idle
constexpr int kLanes = 8;
constexpr int kMaxPositions = 196;
constexpr int kMaxSubchunks = kMaxPositions / kTokens;
constexpr int kMaxThreads = kLanes * kMaxSubchunks;
constexpr int kMaxCluster = 16;   // Hopper; 8 is what every device with clusters has
constexpr int kMaxRowsY = 65535;  // of a grid
// Directions that one block keeps the weights and the orders of; above it each direction gets a launch of its own.
constexpr int kMaxAtOnce = 4;
constexpr int kMaxDirections = 8192;
// Warps to have for each multiprocessor, as far as there is work for them: those it holds at a time, or twice as many.
constexpr int kResidentWarps = 28;
constexpr int kMaxBlocks = 32;

// Channels of one thread, and of a tile.
constexpr int vector_width(int64_t item) {
  return item <= 4 ? 2 : 1;
}
constexpr int tile_channels(int64_t item) {
  return kLanes * vector_width(item);
}

enum class Phase : int {
  kWhole,      // the blocks of a cluster (or one block) hold the whole sequence: one read, one write
  kSummarise,  // leave each chunk's decay and state in the workspace
  kApply,      // start each chunk from the state in the workspace
};

struct ScanLaunch {
  SelectiveScanParams p;  // `reverse` points to host memory: kernels read the bits below
  uint32_t reverse[kMaxDirections / 32];

  int first, count;  // inner directions of this launch
  bool one_order;    // whether they all follow the order of the first
  int chunks;        // blocks along the sequence
  int subchunks;     // threads along the sequence in a block
  int tiles;         // tiles of channels
  int tiles_each;    // of one block
  bool aligned;      // whether rows of channels can be copied 16 bytes at a time
  Phase phase;
  cudaStream_t stream;

  // acc_t [batch, groups, L, D]: sums over the directions of earlier and later launches (y, or the gradient of u); null
  // where one launch has them all.
  void* sum;
  bool add, finish;  // whether to start from `sum`; whether to write the result rather than `sum`

  // acc_t [batch, K, N, chunks, D] each: what a chunk does to the state (forward) and to its gradient (backward), and
  // the state that comes in from the left, the gradient that comes in from the right.
  void *chunk_decay, *chunk_state, *chunk_gradient;
  void *state_before, *gradient_after;
};

// Groups of tiles that share a stretch of the sequence.
inline int64_t channel_splits(const ScanLaunch& a) {
  return (a.tiles + a.tiles_each - 1) / a.tiles_each;
}

// kWhole, kSummarise or kApply of one launch.
template <typename scalar_t>
void launch_forward(const ScanLaunch& launch);
template <typename scalar_t>
void launch_backward(const ScanLaunch& launch, const SelectiveScanGradients& gradients);
// Between kSummarise and kApply: turns the chunks' summaries into what comes in from the left (and the right).
template <typename acc>
void launch_carry(const ScanLaunch& launch, const void* grad_last_state, bool backward);
// out[i][m] = Σ_r in[i][r, m] in a fixed order, for `count` arrays.
constexpr int kMaxSums = 3;
struct RowSums {
  const void* in[kMaxSums];
  void* out[kMaxSums];
  int64_t columns[kMaxSums];
  int count;
  int64_t rows;
};
template <typename scalar_t>
void launch_sum_rows(const RowSums& sums, cudaStream_t stream);

}  // namespace ssm
