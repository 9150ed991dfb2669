// y = C · LN(h) + D · x for one state a channel, forward and backward, each in one pass over memory.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/cuda/column_sums.cuh"
#include "common/cuda/launch.h"
#include "common/cuda/reduce.cuh"
#include "common/cuda/rows.cuh"
#include "common/scalar.h"
#include "state_readout/cuda/launch.h"

namespace ssm {
namespace {

constexpr int kThreads = kReadoutThreads, kParameters = kReadoutParameters;
constexpr int kSums = 1;          // that the forward kernel takes over a row at once
constexpr int kBackwardSums = 3;  // the same of the backward kernel

// Copies the three parameters to shared memory.
template <typename acc>
__device__ void share_parameters(const ReadoutLaunch& p, acc* shared) {
  const void* sources[kParameters] = {p.weight, p.bias, p.D};
  for (int k = 0; k < kParameters; ++k) {
    for (int c = threadIdx.x; c < p.channels; c += kThreads) {
      shared[k * p.channels + c] = static_cast<const acc*>(sources[k])[c];
    }
  }
  __syncthreads();
}

// Reads a row of h and normalises it to mean 0 and variance 1. Returns the inverse standard deviation.
template <typename scalar_t, int kVector, int kItems, typename acc>
__device__ acc normalized_row(
    const ReadoutLaunch& p, int64_t row, bool live, int lane, acc (&h)[kItems][kVector], acc* scratch) {
  acc sum[1] = {0};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int channel = (i * p.team + lane) * kVector;
    if (live && channel < p.channels) load<acc, scalar_t>(p.h, row * p.channels + channel, h[i]);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      if (!live || channel >= p.channels) h[i][v] = 0;
      sum[0] += h[i][v];
    }
  }
  sum_over_threads(sum, p.team, scratch);
  const acc mean = sum[0] / p.channels;
  acc square[1] = {0};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool inside = (i * p.team + lane) * kVector < p.channels;
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      h[i][v] = inside ? h[i][v] - mean : acc(0);
      square[0] += h[i][v] * h[i][v];
    }
  }
  sum_over_threads(square, p.team, scratch);
  const acc scale = rsqrt(square[0] / p.channels + static_cast<acc>(p.eps));
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) h[i][v] *= scale;
  }
  return scale;
}

template <typename scalar_t, typename acc>
__device__ acc output_weight(const ReadoutLaunch& p, int64_t row) {
  return static_cast<acc>(static_cast<const scalar_t*>(p.C)[p.C_of(row)]);
}

template <typename scalar_t, int kVector, int kItems>
__global__ void __launch_bounds__(kThreads) readout_kernel(ReadoutLaunch p) {
  using acc = acc_t<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  const ReadoutMemory<acc> shared(p.channels, kSums, memory);
  acc *const scratch = shared.scratch, *const parameters = shared.parameters;
  share_parameters(p, parameters);
  const int lane = threadIdx.x % p.team, teams = kThreads / p.team;
  // All teams of a block take the same number of turns, since they wait for each other in sum_over_threads.
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < p.rows;
      first += static_cast<int64_t>(gridDim.x) * teams) {
    const int64_t row = first + threadIdx.x / p.team;
    const bool live = row < p.rows;
    // Read here, so that it arrives while the row is normalised.
    Pack<scalar_t, kVector> inputs[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = (i * p.team + lane) * kVector;
      if (live && channel < p.channels) {
        inputs[i] = load_packed<scalar_t, kVector>(p.x, row * p.channels + channel);
      }
    }
    acc h[kItems][kVector];
    normalized_row<scalar_t>(p, row, live, lane, h, scratch);
    if (!live) continue;
    const acc C = output_weight<scalar_t, acc>(p, row);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = (i * p.team + lane) * kVector;
      if (channel >= p.channels) continue;
      acc weight[kVector], bias[kVector], D[kVector], y[kVector];
      load<acc, acc>(parameters, channel, weight);
      load<acc, acc>(parameters + p.channels, channel, bias);
      load<acc, acc>(parameters + 2 * p.channels, channel, D);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        y[v] = C * (h[i][v] * weight[v] + bias[v]) + D[v] * static_cast<acc>(inputs[i].value[v]);
      }
      store<acc, scalar_t>(p.y, row * p.channels + channel, y);
    }
  }
}

// Writes what the block's rows give the gradients of each channel's parameters.
template <int kVector, int kItems, typename acc>
__device__ void write_partial(const ReadoutLaunch& p, acc (&sums)[kParameters][kItems][kVector], acc* shared) {
  sum_over_teams<kThreads>(p.team, p.channels, sums, shared);
  acc* out = static_cast<acc*>(p.partial) + static_cast<int64_t>(blockIdx.x) * kParameters * p.channels;
  for (int c = threadIdx.x; c < kParameters * p.channels; c += kThreads) out[c] = shared[c];
}

// With n the normalised h, before the weight w and the bias b: ∂C = Σ g (n w + b) and ∂x = D g; ∂h is that of a layer
// norm whose output has the gradient C g; and over the rows, ∂w = Σ C g n, ∂b = Σ C g and ∂D = Σ g x.
template <typename scalar_t, int kVector, int kItems>
__global__ void __launch_bounds__(kThreads, kReadoutBackwardMinBlocks) readout_backward_kernel(ReadoutLaunch p) {
  using acc = acc_t<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  const ReadoutMemory<acc> shared(p.channels, kBackwardSums, memory);
  acc *const scratch = shared.scratch, *const parameters = shared.parameters;
  share_parameters(p, parameters);
  const int lane = threadIdx.x % p.team, teams = kThreads / p.team;
  acc sums[kParameters][kItems][kVector] = {};
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < p.rows;
      first += static_cast<int64_t>(gridDim.x) * teams) {
    const int64_t row = first + threadIdx.x / p.team;
    const bool live = row < p.rows;
    // Read here, so that they arrive while the row is normalised.
    Pack<scalar_t, kVector> grad_y[kItems], inputs[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = (i * p.team + lane) * kVector;
      if (!live || channel >= p.channels) continue;
      grad_y[i] = load_packed<scalar_t, kVector>(p.grad_y, row * p.channels + channel);
      inputs[i] = load_packed<scalar_t, kVector>(p.x, row * p.channels + channel);
    }
    acc n[kItems][kVector], g[kItems][kVector];
    const acc scale = normalized_row<scalar_t>(p, row, live, lane, n, scratch);
    const acc C = live ? output_weight<scalar_t, acc>(p, row) : acc(0);
    acc of_row[kBackwardSums] = {0, 0, 0};  // Σ b g, and ∂C in the end; Σ w g; Σ w g n
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = (i * p.team + lane) * kVector;
      if (!live || channel >= p.channels) continue;  // without a row, n is no number if eps is 0
      acc weight[kVector], bias[kVector], D[kVector], grad_x[kVector];
      load<acc, acc>(parameters, channel, weight);
      load<acc, acc>(parameters + p.channels, channel, bias);
      load<acc, acc>(parameters + 2 * p.channels, channel, D);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const acc gradient = static_cast<acc>(grad_y[i].value[v]), weighted = gradient * weight[v];
        of_row[0] += gradient * bias[v];
        of_row[1] += weighted;
        of_row[2] += weighted * n[i][v];
        sums[0][i][v] += C * gradient * n[i][v];
        sums[1][i][v] += C * gradient;
        sums[2][i][v] += gradient * static_cast<acc>(inputs[i].value[v]);
        grad_x[v] = D[v] * gradient;
        g[i][v] = weighted;
      }
      store<acc, scalar_t>(p.grad_x, row * p.channels + channel, grad_x);
    }
    of_row[0] += of_row[2];
    sum_over_threads(of_row, p.team, scratch);
    if (!live) continue;
    if (lane == 0) static_cast<scalar_t*>(p.grad_C)[row] = static_cast<scalar_t>(of_row[0]);
    const acc mean = of_row[1] / p.channels, slope = of_row[2] / p.channels, factor = C * scale;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = (i * p.team + lane) * kVector;
      if (channel >= p.channels) continue;
#pragma unroll
      for (int v = 0; v < kVector; ++v) g[i][v] = factor * (g[i][v] - mean - n[i][v] * slope);
      store<acc, scalar_t>(p.grad_h, row * p.channels + channel, g[i]);
    }
  }
  write_partial(p, sums, parameters);
}

template <typename scalar_t, typename Kernel>
void launch(Kernel* kernel, const ReadoutLaunch& p, int64_t blocks, int sums) {
  const size_t bytes = ReadoutMemory<acc_t<scalar_t>>(p.channels, sums, nullptr).bytes;
  launch_kernel(
      "state_readout", kernel, {dim3(static_cast<unsigned>(blocks)), dim3(kThreads), bytes, 1, current_stream()}, p);
}

}  // namespace

template <typename scalar_t>
void launch_readout(const ReadoutLaunch& p, bool fours, int64_t blocks) {
  auto* const kernel =
      fours ? readout_kernel<scalar_t, kFours.width, kFours.items> : readout_kernel<scalar_t, kOnes.width, kOnes.items>;
  launch<scalar_t>(kernel, p, blocks, kSums);
}

template <typename scalar_t>
void launch_readout_backward(const ReadoutLaunch& p, bool fours, int64_t blocks) {
  auto* const kernel = fours ? readout_backward_kernel<scalar_t, kFours.width, kFours.items>
                             : readout_backward_kernel<scalar_t, kOnes.width, kOnes.items>;
  launch<scalar_t>(kernel, p, blocks, kBackwardSums);
  const int64_t channels = p.channels;
  launch_column_sums<acc_t<scalar_t>, ReadoutParams>(
      "state_readout", {p.partial, blocks, kParameters * channels, {channels, 2 * channels, 3 * channels},
                           {p.grad_weight, p.grad_bias, p.grad_D}});
}

template void launch_readout<double>(const ReadoutLaunch&, bool, int64_t);
template void launch_readout<float>(const ReadoutLaunch&, bool, int64_t);
template void launch_readout<c10::Half>(const ReadoutLaunch&, bool, int64_t);
template void launch_readout<c10::BFloat16>(const ReadoutLaunch&, bool, int64_t);
template void launch_readout_backward<double>(const ReadoutLaunch&, bool, int64_t);
template void launch_readout_backward<float>(const ReadoutLaunch&, bool, int64_t);
template void launch_readout_backward<c10::Half>(const ReadoutLaunch&, bool, int64_t);
template void launch_readout_backward<c10::BFloat16>(const ReadoutLaunch&, bool, int64_t);

}  // namespace ssm
