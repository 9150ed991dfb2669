// The small kernels between and after the scans: from chunks' summaries to carries, and from partial gradients to sums.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>

#include "common/cuda/launch.h"
#include "common/pack.h"
#include "common/scalar.h"
#include "selective_scan/cuda/launch.h"

namespace ssm {
namespace {

// Walks the chunks of one channel and state from the first to the last, or back, and leaves each chunk's carry.
template <typename acc>
__device__ acc walk_chunks(const acc* __restrict__ decay, const acc* __restrict__ state, acc* __restrict__ incoming,
    acc value, int chunks, int64_t stride, bool downwards) {
  for (int first = 0; first < chunks; first += kCarryAhead) {
    acc d[kCarryAhead], s[kCarryAhead];
#pragma unroll
    for (int i = 0; i < kCarryAhead; ++i) {
      const int c = min(first + i, chunks - 1);
      const int64_t at = (downwards ? chunks - 1 - c : c) * stride;
      d[i] = decay[at];
      s[i] = state[at];
    }
#pragma unroll
    for (int i = 0; i < kCarryAhead; ++i) {
      const int c = first + i;
      if (c < chunks) {
        incoming[(downwards ? chunks - 1 - c : c) * stride] = value;
        value = d[i] * value + s[i];
      }
    }
  }
  return value;
}

template <typename acc>
__global__ void __launch_bounds__(kCarryThreads)
    carry_kernel(const __grid_constant__ ScanLaunch a, const acc* grad_last_state, bool backward) {
  const SelectiveScanParams& p = a.p;
  int64_t index = static_cast<int64_t>(blockIdx.x) * kCarryThreads + threadIdx.x;
  if (index >= p.batch * p.groups * a.count * p.states * p.channels) return;
  const int64_t channel = index % p.channels;
  index /= p.channels;
  const int64_t n = index % p.states;
  index /= p.states;
  const int64_t k = index / a.count % p.groups * p.inner + a.first + index % a.count;
  const int64_t sequence = index / a.count / p.groups * p.groups * p.inner + k;
  const int64_t first = (sequence * p.states + n) * a.chunks * p.channels + channel;
  const bool reversed = a.reverse[k >> 5] >> (k & 31) & 1;
  const acc* decay = static_cast<const acc*>(a.chunk_decay) + first;
  walk_chunks(decay, static_cast<const acc*>(a.chunk_state) + first, static_cast<acc*>(a.state_before) + first, acc(0),
      a.chunks, p.channels, reversed);
  if (!backward) return;
  const acc given = grad_last_state != nullptr ? grad_last_state[(sequence * p.channels + channel) * p.states + n] : 0;
  walk_chunks(decay, static_cast<const acc*>(a.chunk_gradient) + first, static_cast<acc*>(a.gradient_after) + first,
      given, a.chunks, p.channels, !reversed);
}

template <typename scalar_t>
__global__ void __launch_bounds__(kSumColumns* kSumRows) sum_rows_kernel(const __grid_constant__ RowSums sums) {
  using acc = acc_t<scalar_t>;
  __shared__ acc parts[kSumRows][kSumColumns];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kSumColumns + threadIdx.x,
                columns = sums.columns[blockIdx.y];
  const acc* in = static_cast<const acc*>(sums.in[blockIdx.y]);
  acc sum = 0;
  if (column < columns) {
#pragma unroll 8
    for (int64_t r = threadIdx.y; r < sums.rows; r += blockDim.y) sum += in[r * columns + column];
  }
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  for (int r = 1; r < static_cast<int>(blockDim.y); ++r) sum += parts[r][threadIdx.x];
  static_cast<scalar_t*>(sums.out[blockIdx.y])[column] = static_cast<scalar_t>(sum);
}

// The same for few rows: a thread sums kWidth neighbouring columns.
template <typename scalar_t, int kWidth>
__global__ void __launch_bounds__(kSumThreads) sum_few_rows_kernel(const __grid_constant__ RowSums sums) {
  using acc = acc_t<scalar_t>;
  const int64_t columns = sums.columns[blockIdx.y];
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x) * kWidth;
  if (column >= columns) return;
  const acc* in = static_cast<const acc*>(sums.in[blockIdx.y]) + column;
  Pack<acc, kWidth> sum{};
#pragma unroll 4
  for (int64_t r = 0; r < sums.rows; ++r) {
    const auto row = *reinterpret_cast<const Pack<acc, kWidth>*>(in + r * columns);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum.value[i] += row.value[i];
  }
  Pack<scalar_t, kWidth> out;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) out.value[i] = static_cast<scalar_t>(sum.value[i]);
  *reinterpret_cast<Pack<scalar_t, kWidth>*>(static_cast<scalar_t*>(sums.out[blockIdx.y]) + column) = out;
}

unsigned blocks_for(int64_t items, int per_block) {
  return grid_blocks((items + per_block - 1) / per_block, "selective_scan");
}

}  // namespace

template <typename acc>
void launch_carry(const ScanLaunch& a, const void* grad_last_state, bool backward) {
  const int64_t threads = a.p.batch * a.p.groups * a.count * a.p.states * a.p.channels;
  if (threads == 0) return;
  launch_kernel("selective_scan", carry_kernel<acc>,
      {dim3(blocks_for(threads, kCarryThreads)), dim3(kCarryThreads), 0, 1, a.stream}, a,
      static_cast<const acc*>(grad_last_state), backward);
}

template <typename scalar_t>
void launch_sum_rows(const RowSums& sums, cudaStream_t stream) {
  int64_t columns = 0;
  for (int i = 0; i < sums.count; ++i) columns = std::max(columns, sums.columns[i]);
  if (columns == 0) return;
  if (sums.rows <= kFewRows) {
    constexpr int kWidth = 4;
    bool wide = true;
    for (int i = 0; i < sums.count; ++i) wide = wide && sums.columns[i] % kWidth == 0;
    const int width = wide ? kWidth : 1;
    launch_kernel("selective_scan", wide ? sum_few_rows_kernel<scalar_t, kWidth> : sum_few_rows_kernel<scalar_t, 1>,
        {dim3(blocks_for(columns, kSumThreads * width), static_cast<unsigned>(sums.count)), dim3(kSumThreads), 0, 1,
            stream},
        sums);
    return;
  }
  const unsigned rows = static_cast<unsigned>(std::min<int64_t>(std::max<int64_t>(sums.rows, 1), kSumRows));
  const dim3 grid(blocks_for(columns, kSumColumns), static_cast<unsigned>(sums.count));
  launch_kernel("selective_scan", sum_rows_kernel<scalar_t>, {grid, dim3(kSumColumns, rows), 0, 1, stream}, sums);
}

template void launch_carry<float>(const ScanLaunch&, const void*, bool);
template void launch_carry<double>(const ScanLaunch&, const void*, bool);
template void launch_sum_rows<float>(const RowSums&, cudaStream_t);
template void launch_sum_rows<double>(const RowSums&, cudaStream_t);
template void launch_sum_rows<c10::Half>(const RowSums&, cudaStream_t);
template void launch_sum_rows<c10::BFloat16>(const RowSums&, cudaStream_t);

}  // namespace ssm
