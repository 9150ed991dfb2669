// Brings rows of channels, which teams of threads hold (row_shape.h), to mean 0 and mean square 1.
#pragma once

#include "common/cuda/reduce.cuh"

namespace ssm {

// The constants of a norm over rows, and the threads that have a row.
template <typename acc>
struct RowNorm {
  int channels;
  acc share;     // 1 / channels
  acc eps;       // added to the mean square
  bool centred;  // whether the mean is taken off
  int team;      // threads of a row, a power of two
  acc* scratch;  // one number for each warp of the block
};

// Norms a thread's channels of its row; those beyond the row's end are 0 and stay so, and so do all of a row that is
// not `live`. `lane` is the thread's place in its team. Returns the factor that the centred row was multiplied by. All
// threads of the block call.
template <int kVector, int kItems, typename acc>
__device__ __forceinline__ acc normalize(const RowNorm<acc>& p, int lane, bool live, acc (&n)[kItems][kVector]) {
  if (p.centred) {
    acc sum[1] = {0};
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) sum[0] += n[i][v];
    }
    sum_over_threads(sum, p.team, p.scratch);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const acc mean = (i * p.team + lane) * kVector < p.channels ? sum[0] * p.share : acc(0);
#pragma unroll
      for (int v = 0; v < kVector; ++v) n[i][v] -= mean;
    }
  }
  acc square[1] = {0};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) square[0] += n[i][v] * n[i][v];
  }
  sum_over_threads(square, p.team, p.scratch);
  const acc scale = live ? rsqrt(square[0] * p.share + p.eps) : acc(0);  // no infinity for zeros if eps is 0
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) n[i][v] *= scale;
  }
  return scale;
}

}  // namespace ssm
