// The threads that work on one sample together: a block or, from sm_90 on, a cluster of blocks.
#pragma once

#include <cooperative_groups.h>

#include "common/cuda/launch.h"
#include "common/cuda/reduce.cuh"

namespace ssm {

// What the blocks of a team tell each other. Each block has one in its shared memory.
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

  // A barrier: after it, all threads of the team see what any of them wrote before it.
  __device__ void sync() const {
#if __CUDA_ARCH__ >= 900
    if (size_ > 1) return cooperative_groups::this_cluster().sync();
#endif
    __syncthreads();
  }

  // Whether the condition holds for any thread. A barrier, like sync().
  __device__ bool any(bool condition) {
    const bool here = __syncthreads_or(condition);
#if __CUDA_ARCH__ >= 900
    if (size_ > 1) {
      // Three flags take turns: one is in use, slow threads may still read the second, the third is cleared for the
      // next call.
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

  // The sum over the threads before this one, and the sum over all. blockDim.x is a multiple of 32. Every thread calls.
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
    __syncthreads();  // after it, warp_sum may be written again
    return result;
  }

  // To be called last in a kernel: no block may end while another may still read its shared memory.
  __device__ void leave() const {
    if (size_ > 1) sync();
  }

 private:
  int size_, rank_;
  TeamShared* shared_;
  int turn_ = 0, prefix_turn_ = 0;
};

}  // namespace ssm
