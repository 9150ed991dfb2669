// Reads and writes the channels that a thread has of a row (row_shape.h), and sums over the rows of a block.
#pragma once

#include <cstdint>

#include "common/cuda/packs.cuh"
#include "common/cuda/reduce.cuh"

namespace ssm {

// The thread's place in its team, and the team's in its block. Teams are powers of two: a division would take thirty
// instructions, and the compiler computes these anew in each turn of a loop that needs all registers.
__device__ __forceinline__ int lane_of_team(int team) {
  return static_cast<int>(threadIdx.x) & (team - 1);
}
__device__ __forceinline__ int number_of_team(int team) {
  return static_cast<int>(threadIdx.x) >> (__ffs(team) - 1);
}

template <typename scalar_t, int kVector>
__device__ __forceinline__ Pack<scalar_t, kVector> load_packed(const void* base, int64_t at) {
  return *reinterpret_cast<const Pack<scalar_t, kVector>*>(static_cast<const scalar_t*>(base) + at);
}

// Brings an element's line into the cache, if the device does so, without waiting for it.
template <typename scalar_t>
__device__ __forceinline__ void prefetch(const void* base, int64_t at) {
  asm volatile("prefetch.global.L1 [%0];" ::"l"(static_cast<const scalar_t*>(base) + at));
}

template <typename acc, typename scalar_t, int kVector>
__device__ __forceinline__ void load(const void* base, int64_t at, acc (&out)[kVector]) {
  unpack(load_packed<scalar_t, kVector>(base, at), out);
}

template <typename acc, typename scalar_t, int kVector>
__device__ __forceinline__ void store(void* base, int64_t at, const acc (&in)[kVector]) {
  *reinterpret_cast<Pack<scalar_t, kVector>*>(static_cast<scalar_t*>(base) + at) = pack<scalar_t>(in);
}

// Sums the kCount values that each thread has for each of its channels over the block's teams into `shared`
// [kCount][channels], in an order that depends on the shape alone. All threads call, and get to see the sums.
template <int kThreads, int kCount, int kVector, int kItems, typename acc>
__device__ void sum_over_teams(int team, int channels, acc (&sums)[kCount][kItems][kVector], acc* shared) {
  // The teams of a warp wait for nobody. Then warps, or wider teams, add theirs in turns.
  const int thread = threadIdx.x, lane = lane_of_team(team), together = max(team, 32);
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      for (int offset = team; offset < 32; offset *= 2) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) sums[k][i][v] += __shfl_xor_sync(kFullWarp, sums[k][i][v], offset);
      }
    }
  }
  for (int turn = 0; turn < kThreads / together; ++turn) {
    __syncthreads();
    if (thread / together != turn || thread % together >= team) continue;
    if (turn > 0) {
      // All are read before the first is written, so that they are on their way together.
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
          const int channel = (i * team + lane) * kVector;
          if (channel >= channels) continue;
          acc before[kVector];
          load<acc, acc>(shared, k * channels + channel, before);
#pragma unroll
          for (int v = 0; v < kVector; ++v) sums[k][i][v] += before[v];
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const int channel = (i * team + lane) * kVector;
        if (channel < channels) store<acc, acc>(shared, k * channels + channel, sums[k][i]);
      }
    }
  }
  __syncthreads();
}

}  // namespace ssm
