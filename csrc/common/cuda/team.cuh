// The threads that work on one sample together: a block or, from sm_90 on, a cluster of blocks.
#pragma once

#include <cooperative_groups.h>

#include "common/cuda/launch.h"
#include "common/cuda/reduce.cuh"

namespace ssm {

// What the blocks of a team tell each other; one in the shared memory of each.
struct TeamShared {
  int flag[3];
  int3 warp_sum[32];
  int3 block_sum[2];
};

class Team {
 public:
  __device__ Team(int size, TeamShared* shared)
      : size_(size),
        rank_(size > 1 ? blockIdx.x % size : 0),
        shared_(shared) {
    if (threadIdx.x < 3) shared->flag[threadIdx.x] = 0;
    sync();
  }

  __device__ int rank() const { return rank_; }
  __device__ int first() const { return rank_ * blockDim.x + threadIdx.x; }
  __device__ int stride() const { return size_ * blockDim.x; }

  // All that the team's threads wrote before is seen by all of them after.
  __device__ void sync() const {
#if __CUDA_ARCH__ >= 900
    if (size_ > 1) return cooperative_groups::this_cluster().sync();
#endif
    __syncthreads();
  }

  // Whether the condition holds for any thread; a barrier like sync().
  __device__ bool any(bool condition) {
    const bool here = __syncthreads_or(condition);
#if __CUDA_ARCH__ >= 900
    if (size_ > 1) {
      // Three flags in turn: one in use, one that slow threads may still read, one to clear for the next call.
      int* const flag = cooperative_groups::this_cluster().map_shared_rank(shared_->flag, 0);
      const int turn = turn_, next = turn == 2 ? 0 : turn + 1;
      turn_ = next;
      if (threadIdx.x == 0 && here) atomicOr(flag + turn, 1);
      if (threadIdx.x == 0 && rank_ == 0) atomicExch(flag + next, 0);
      sync();
      const bool result = flag[turn] != 0;
      return result;
    }
#endif
    return here;
  }

  // Sum of the threads before this one, and of all. blockDim.x is a multiple of 32; every thread must call.
  __device__ int3 prefix(int3 own, int3& total) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int3 upto = prefix_over_warp(own, lane);
    if (lane == 31) shared_->warp_sum[warp] = upto;
    __syncthreads();
    if (warp == 0) {
      const int3 mine = lane < warps ? shared_->warp_sum[lane] : make_int3(0, 0, 0);
      shared_->warp_sum[lane] = prefix_over_warp(mine, lane);
    }
    __syncthreads();
    const int3 before = warp > 0 ? shared_->warp_sum[warp - 1] : make_int3(0, 0, 0);
    int3 result = before + (upto - own);
    total = shared_->warp_sum[31];
#if __CUDA_ARCH__ >= 900
    if (size_ > 1) {
      const int turn = prefix_turn_;
      prefix_turn_ ^= 1;
      if (threadIdx.x == 0) shared_->block_sum[turn] = total;
      sync();
      total = make_int3(0, 0, 0);
      for (int r = 0; r < size_; ++r) {
        const int3 other = *cooperative_groups::this_cluster().map_shared_rank(shared_->block_sum + turn, r);
        if (r < rank_) result = result + other;
        total = total + other;
      }
    }
#endif
    __syncthreads();  // warp_sum may be written again
    return result;
  }

  // The last thing a kernel does: no block leaves while another may still look into its shared memory.
  __device__ void leave() const {
    if (size_ > 1) sync();
  }

 private:
  int size_, rank_;
  TeamShared* shared_;
  int turn_ = 0, prefix_turn_ = 0;
};

}  // namespace ssm
