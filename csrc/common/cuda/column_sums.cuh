// Adds up the parts of gradients that the blocks of a kernel have written.
#pragma once

#include <cstdint>

#include "common/cuda/launch.h"

namespace ssm {
namespace {

constexpr int kSumColumns = 32, kSumThreads = 32;  // columns of a block, and threads that share the parts of a column
constexpr int kMostSums = 5;                       // tensors that the sums of all columns are shared among

struct ColumnSums {
  const void* partial;  // acc, contiguous [parts, columns]
  int64_t parts, columns;
  int64_t ends[kMostSums];  // the column after the last one of each tensor, in rising order
  void* sums[kMostSums];    // acc, contiguous
};

// Each thread adds up every kSumThreads-th part, in an order that depends on the shape alone. `Of` is the parameters of
// the operator whose sums these are: profiles show it.
template <typename acc, typename Of>
__global__ void __launch_bounds__(kSumColumns* kSumThreads) column_sums_kernel(ColumnSums p) {
  __shared__ acc sums[kSumThreads][kSumColumns];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kSumColumns + threadIdx.x;
  acc sum = 0;
  if (column < p.columns) {
    for (int64_t part = threadIdx.y; part < p.parts; part += kSumThreads) {
      sum += static_cast<const acc*>(p.partial)[part * p.columns + column];
    }
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= p.columns) return;
  for (int other = 1; other < kSumThreads; ++other) sum += sums[other][threadIdx.x];
  int64_t begin = 0;
  for (int i = 0; i < kMostSums; begin = p.ends[i++]) {
    if (column >= p.ends[i]) continue;
    static_cast<acc*>(p.sums[i])[column - begin] = sum;
    return;
  }
}

template <typename acc, typename Of>
void launch_column_sums(const char* op, const ColumnSums& p) {
  const dim3 grid(grid_blocks((p.columns + kSumColumns - 1) / kSumColumns, op));
  launch_kernel(op, column_sums_kernel<acc, Of>, {grid, dim3(kSumColumns, kSumThreads), 0, 1, current_stream()}, p);
}

}  // namespace
}  // namespace ssm
