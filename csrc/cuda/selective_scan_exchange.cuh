// How the summaries of the chunks of a sequence travel between threads, warps and the blocks of a cluster. A summary is
// the pair (decay, state) of h ← decay · h + state.
#pragma once

#include <cooperative_groups.h>

#include "selective_scan_block.cuh"

namespace ssm {

constexpr unsigned kFullWarp = 0xffffffffu;

// The summaries of one exchange, by channel of the tile; two sets, so that one barrier an exchange is enough.
template <typename acc, int kVector, int kKinds>
struct ExchangeBuffers {
  acc warp[2][kKinds][kMaxWarps][kLanes * kVector];
  acc block[2][kKinds][kMaxCluster][kLanes * kVector];
};

template <typename acc>
__device__ __forceinline__ void compose(acc& decay, acc& state, acc decay_before, acc state_before) {
  state = decay * state_before + state;
  decay *= decay_before;
}

// Inclusive scan over the rows of a warp; on return `decay` and `state` hold what comes before this thread within the
// warp, and the last row of the warp (the first, for kFromRight) has written the warp's total.
template <bool kFromRight, int kVector, typename acc>
__device__ __forceinline__ void scan_warp(acc (&decay)[kVector], acc (&state)[kVector],
    acc (*total_decay)[kLanes * kVector], acc (*total_state)[kLanes * kVector], const Place<kVector>& place) {
  constexpr int kRows = 32 / kLanes;
  const int row = threadIdx.x % 32 / kLanes;
  const int rank = kFromRight ? kRows - 1 - row : row;
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
#pragma unroll
    for (int offset = 1; offset < kRows; offset *= 2) {
      const acc d = kFromRight ? __shfl_down_sync(kFullWarp, decay[v], offset * kLanes)
                               : __shfl_up_sync(kFullWarp, decay[v], offset * kLanes);
      const acc s = kFromRight ? __shfl_down_sync(kFullWarp, state[v], offset * kLanes)
                               : __shfl_up_sync(kFullWarp, state[v], offset * kLanes);
      if (rank >= offset) compose(decay[v], state[v], d, s);
    }
    if (rank == kRows - 1) {
      if (total_decay != nullptr) total_decay[place.warp][place.lane * kVector + v] = decay[v];
      total_state[place.warp][place.lane * kVector + v] = state[v];
    }
    const acc d = kFromRight ? __shfl_down_sync(kFullWarp, decay[v], kLanes)
                             : __shfl_up_sync(kFullWarp, decay[v], kLanes);
    const acc s = kFromRight ? __shfl_down_sync(kFullWarp, state[v], kLanes)
                             : __shfl_up_sync(kFullWarp, state[v], kLanes);
    decay[v] = rank == 0 ? acc(1) : d;
    state[v] = rank == 0 ? acc(0) : s;
  }
}

// What comes before this thread within the block, and the whole block's summary, from the warps' totals.
template <bool kFromRight, int kVector, typename acc>
__device__ __forceinline__ void scan_block(acc (&decay)[kVector], acc (&state)[kVector], acc (&block_decay)[kVector],
    acc (&block_state)[kVector], const acc (*warp_decay)[kLanes * kVector], const acc (*warp_state)[kLanes * kVector],
    const Place<kVector>& place) {
  const int warps = blockDim.x / 32;
  const int rank = kFromRight ? warps - 1 - place.warp : place.warp;
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    acc d = acc(1), s = acc(0), d_mine = acc(1), s_mine = acc(0);
    for (int w = 0; w < warps; ++w) {
      if (w == rank) d_mine = d, s_mine = s;
      const int from = kFromRight ? warps - 1 - w : w;
      const acc d_w = warp_decay[from][place.lane * kVector + v], s_w = warp_state[from][place.lane * kVector + v];
      s = d_w * s + s_w;
      d *= d_w;
    }
    block_decay[v] = d;
    block_state[v] = s;
    compose(decay[v], state[v], d_mine, s_mine);
  }
}

// Writes one value into the same place of every block's shared memory.
template <typename acc>
__device__ __forceinline__ void write_to_cluster(acc* mine, acc value, int blocks) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  auto cluster = cooperative_groups::this_cluster();
  for (int r = 0; r < blocks; ++r) *cluster.map_shared_rank(mine, r) = value;
#else
  *mine = value;  // never with more than one block: the host asks for clusters on sm_90 alone
#endif
}

__device__ __forceinline__ void sync_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cooperative_groups::this_cluster().sync();
#else
  __syncthreads();
#endif
}

// Before the first exchange. Shared memory of another block may be written once that block has started.
__device__ __forceinline__ void sync_start(const ScanLaunch& a) {
  if (a.phase == Phase::kWhole && a.chunks > 1) {
    sync_cluster();
  } else {
    __syncthreads();
  }
}

// The state that comes in at this block, from the summaries of the blocks before it; `from` walks them.
template <bool kFromRight, int kVector, typename acc>
__device__ __forceinline__ void scan_cluster(acc (&incoming)[kVector], const acc (*block_decay)[kLanes * kVector],
    const acc (*block_state)[kLanes * kVector], int chunks, bool reversed, const Place<kVector>& place) {
  const bool downwards = kFromRight != reversed;
  const int before = downwards ? chunks - 1 - place.chunk : place.chunk;
  for (int c = 0; c < before; ++c) {
    const int from = downwards ? chunks - 1 - c : c;
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const int at = place.lane * kVector + v;
      incoming[v] = block_decay[from][at] * incoming[v] + block_state[from][at];
    }
  }
}

}  // namespace ssm
