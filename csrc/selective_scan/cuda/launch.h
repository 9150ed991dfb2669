// What the host hands by value to the selective scan's CUDA kernels, and the launchers, one translation unit a type.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "selective_scan/cuda/tuning.h"
#include "selective_scan/params.h"

namespace ssm {

constexpr int kMaxGridY = 65535;  // blocks of a grid's second and third dimension

enum class Phase : int {
  kWhole,      // one block, or the blocks of a cluster, hold the whole sequence
  kSummarise,  // blocks leave their chunks' summaries in the workspace
  kApply,      // blocks start their chunks from the carries in the workspace
};

// What decides how much shared memory a block takes.
struct BlockShape {
  int rows, count;
  bool one_order;
};

// A block takes the tiles of one stretch of the sequence, a chunk, one after another. A tile is up to kMaxRows
// rows of kLanes threads, each of which walks kTokens positions of one or two neighbouring channels.
struct ScanLaunch {
  SelectiveScanParams p;  // `reverse` points to host memory: kernels read the bits below
  uint32_t reverse[kMaxDirections / 32];

  int first, count;  // inner directions of this launch
  bool one_order;    // whether they all follow the order of the first
  int chunks;        // blocks along the sequence
  int rows;          // rows of threads along the sequence in a block
  int tiles;         // tiles of channels
  int tiles_each;    // tiles of one block
  bool aligned;      // whether rows of channels can be copied 16 bytes at a time
  Phase phase;
  cudaStream_t stream;

  // acc_t [batch, groups, L, D]: the sum over directions (of y, or of the gradient of u) from launch to launch; null if
  // one launch has all directions.
  void* sum;
  bool add, finish;  // whether to add `sum`; whether to write the result and not `sum`

  // acc_t [batch, K, N, chunks, D] each: the summaries of the chunks, for the state and for its gradient; and the
  // carries: the state that comes in from the left, and the gradient that comes in from the right.
  void *chunk_decay, *chunk_state, *chunk_gradient;
  void *state_before, *gradient_after;
};

// Blocks that share a chunk of the sequence, each with its own tiles.
inline int64_t channel_splits(const ScanLaunch& a) {
  return (a.tiles + a.tiles_each - 1) / a.tiles_each;
}

// One launch of the phase that it names.
template <typename scalar_t>
void launch_forward(const ScanLaunch& launch);
template <typename scalar_t>
void launch_backward(const ScanLaunch& launch, const SelectiveScanGradients& gradients);
// To be called between kSummarise and kApply: turns the chunks' summaries into carries.
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
