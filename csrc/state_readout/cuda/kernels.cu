// y = C · LN(h) + D · x for one state a channel, forward and backward, each in one pass over memory.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/cuda/column_sums.cuh"
#include "common/cuda/launch.h"
#include "common/cuda/reduce.cuh"
#include "common/cuda/row_norm.cuh"
#include "common/cuda/row_stage.cuh"
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

template <typename acc>
__device__ __forceinline__ RowNorm<acc> row_norm(const ReadoutLaunch& p, acc* scratch) {
  return {p.channels, acc(1) / p.channels, static_cast<acc>(p.eps), true, p.team, scratch};
}

template <typename scalar_t, typename acc>
__device__ acc output_weight(const ReadoutLaunch& p, int64_t row) {
  return static_cast<acc>(static_cast<const scalar_t*>(p.C)[p.C_of(row)]);
}

// What the kernels read a row ahead.
template <typename scalar_t, int kVector, int kItems>
struct ReadoutStages {
  template <int kSlots>
  using Stage = RowStage<scalar_t, kThreads, kVector, kItems, kSlots>;

  Stage<1> h;
  Stage<2> x, grad_y;  // read late, so that the next row is there, too
  size_t bytes;

  C10_HOST_DEVICE ReadoutStages(const ReadoutLaunch& p, char* memory) : ReadoutStages(p, Carver(memory)) {}

  __device__ __forceinline__ void start(const ReadoutLaunch& p, int turn, int64_t row) const {
    h.start(turn, row, row < p.rows);
    x.start(turn, row, row < p.rows);
    grad_y.start(turn, row, row < p.rows);
    close_copy_group();
  }

 private:
  C10_HOST_DEVICE ReadoutStages(const ReadoutLaunch& p, Carver&& carver)
      : h(p.h, false, p.team, p.channels, carver),
        x(p.x, false, p.team, p.channels, carver),
        grad_y(p.grad_y, false, p.team, p.channels, carver),
        bytes(carver.bytes()) {}
};

template <typename scalar_t, int kVector, int kItems>
__global__ void __launch_bounds__(kThreads, kReadoutMinBlocks) readout_kernel(ReadoutLaunch p) {
  using acc = acc_t<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  const ReadoutMemory<acc> shared(p.channels, kSums, memory);
  acc *const scratch = shared.scratch, *const parameters = shared.parameters;
  const ReadoutStages<scalar_t, kVector, kItems> stages(p, memory + shared.bytes);
  const RowNorm<acc> norm = row_norm(p, scratch);
  const int lane = lane_of_team(p.team), teams = kThreads / p.team;
  const int64_t step = static_cast<int64_t>(gridDim.x) * teams;
  int64_t row = static_cast<int64_t>(blockIdx.x) * teams + number_of_team(p.team);
  stages.start(p, 0, row);
  share_parameters(p, parameters);
  int turn = 0;
  // All teams of a block take the same number of turns, since they wait for each other in sum_over_threads.
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < p.rows; first += step, row += step, ++turn) {
    const bool live = row < p.rows;
    const acc C = live ? output_weight<scalar_t, acc>(p, row) : acc(0);  // arrives while the row is normalised
    acc h[kItems][kVector];
    wait_for_copies();
    stages.h.take(turn, row, live, h);
    stages.start(p, turn + 1, row + step);
    normalize(norm, lane, live, h);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = (i * p.team + lane) * kVector;
      if (!live || channel >= p.channels) continue;
      acc weight[kVector], bias[kVector], D[kVector], x[kVector], y[kVector];
      load<acc, acc>(parameters, channel, weight);
      load<acc, acc>(parameters + p.channels, channel, bias);
      load<acc, acc>(parameters + 2 * p.channels, channel, D);
      stages.x.take(turn, row, live, i, x);
#pragma unroll
      for (int v = 0; v < kVector; ++v) y[v] = C * (h[i][v] * weight[v] + bias[v]) + D[v] * x[v];
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
  const ReadoutStages<scalar_t, kVector, kItems> stages(p, memory + shared.bytes);
  const RowNorm<acc> norm = row_norm(p, scratch);
  const int lane = lane_of_team(p.team), teams = kThreads / p.team;
  const int64_t step = static_cast<int64_t>(gridDim.x) * teams;
  int64_t row = static_cast<int64_t>(blockIdx.x) * teams + number_of_team(p.team);
  stages.start(p, 0, row);
  share_parameters(p, parameters);
  acc sums[kParameters][kItems][kVector] = {};
  int turn = 0;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < p.rows; first += step, row += step, ++turn) {
    const bool live = row < p.rows;
    const acc C = live ? output_weight<scalar_t, acc>(p, row) : acc(0);
    acc n[kItems][kVector], g[kItems][kVector];
    wait_for_copies();
    stages.h.take(turn, row, live, n);
    stages.start(p, turn + 1, row + step);
    const acc scale = normalize(norm, lane, live, n);
    acc of_row[kBackwardSums] = {0, 0, 0};  // Σ b g, and ∂C in the end; Σ w g; Σ w g n
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = (i * p.team + lane) * kVector;
      if (!live || channel >= p.channels) continue;  // without a row, n is no number if eps is 0
      acc weight[kVector], bias[kVector], D[kVector], gradient[kVector], x[kVector], grad_x[kVector];
      load<acc, acc>(parameters, channel, weight);
      load<acc, acc>(parameters + p.channels, channel, bias);
      load<acc, acc>(parameters + 2 * p.channels, channel, D);
      stages.grad_y.take(turn, row, live, i, gradient);
      stages.x.take(turn, row, live, i, x);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const acc weighted = gradient[v] * weight[v];
        of_row[0] += gradient[v] * bias[v];
        of_row[1] += weighted;
        of_row[2] += weighted * n[i][v];
        sums[0][i][v] += C * gradient[v] * n[i][v];
        sums[1][i][v] += C * gradient[v];
        sums[2][i][v] += gradient[v] * x[v];
        grad_x[v] = D[v] * gradient[v];
        g[i][v] = weighted;
      }
      store<acc, scalar_t>(p.grad_x, row * p.channels + channel, grad_x);
    }
    of_row[0] += of_row[2];
    sum_over_threads(of_row, p.team, scratch);
    if (!live) continue;
    if (lane == 0) static_cast<scalar_t*>(p.grad_C)[row] = static_cast<scalar_t>(of_row[0]);
    const acc mean = of_row[1] * norm.share, slope = of_row[2] * norm.share, factor = C * scale;
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

template <typename scalar_t, int kVector, int kItems>
void launch(void (*kernel)(ReadoutLaunch), const ReadoutLaunch& p, int64_t blocks, int sums) {
  const size_t bytes = ReadoutMemory<acc_t<scalar_t>>(p.channels, sums, nullptr).bytes +
                       stage_bytes(ReadoutStages<scalar_t, kVector, kItems>(p, nullptr).bytes, "state_readout");
  launch_kernel(
      "state_readout", kernel, {dim3(static_cast<unsigned>(blocks)), dim3(kThreads), bytes, 1, current_stream()}, p);
}

template <typename scalar_t, int kVector, int kItems>
void launch_forward(const ReadoutLaunch& p, int64_t blocks) {
  launch<scalar_t, kVector, kItems>(readout_kernel<scalar_t, kVector, kItems>, p, blocks, kSums);
}

template <typename scalar_t, int kVector, int kItems>
void launch_backward(const ReadoutLaunch& p, int64_t blocks) {
  launch<scalar_t, kVector, kItems>(readout_backward_kernel<scalar_t, kVector, kItems>, p, blocks, kBackwardSums);
}

}  // namespace

template <typename scalar_t>
void launch_readout(const ReadoutLaunch& p, bool fours, int64_t blocks) {
  auto* const launch =
      fours ? launch_forward<scalar_t, kFours.width, kFours.items> : launch_forward<scalar_t, kOnes.width, kOnes.items>;
  launch(p, blocks);
}

template <typename scalar_t>
void launch_readout_backward(const ReadoutLaunch& p, bool fours, int64_t blocks) {
  auto* const launch = fours ? launch_backward<scalar_t, kFours.width, kFours.items>
                             : launch_backward<scalar_t, kOnes.width, kOnes.items>;
  launch(p, blocks);
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
