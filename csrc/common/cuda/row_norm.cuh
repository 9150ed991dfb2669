// Brings rows of channels, which teams of threads hold (row_shape.h), to mean 0 and mean square 1.
#pragma once

#include "common/cuda/reduce.cuh"

namespace ssm {

// The constants of a norm over rows, and the threads that have a row.
template <typename acc>
struct RowNorm {
  int channels;
  acc eps;       // added to the mean square
  bool centred;  // whether the mean is taken off
  int team;      // threads of a row, a power of two
  acc* scratch;  // one number for each warp of the block
};

// Norms a thread's channels of its row; those beyond the row's end are 0 and stay so. `lane` is the thread's place in
// its team. Returns the factor that the centred row was multiplied by. All threads of the block call.
template <int kVector, int kItems, typename acc>
__device__ __forceinline__ acc normalize(const RowNorm<acc>& p, int lane, acc (&n)[kItems][kVector]) {
  if (p.centred) {
    acc sum[1] = {0};
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) sum[0] += n[i][v];
    }
    sum_over_threads(sum, p.team, p.scratch);
    const acc mean = sum[0] / p.channels;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const bool inside = (i * p.team + lane) * kVector < p.channels;
#pragma unroll
      for (int v = 0; v < kVector; ++v) n[i][v] = inside ? n[i][v] - mean : acc(0);
    }
  }
  acc square[1] = {0};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) square[0] += n[i][v] * n[i][v];
  }
  sum_over_threads(square, p.team, p.scratch);
  const acc scale = rsqrt(square[0] / p.channels + p.eps);
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) n[i][v] *= scale;
  }
  return scale;
}

}  // namespace ssm
