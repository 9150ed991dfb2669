// y = LN(C · LN(h) + D · x) · silu(gate) for one state a channel, forward and backward, each in one pass over memory.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/cuda/column_sums.cuh"
#include "common/cuda/launch.h"
#include "common/cuda/reduce.cuh"
#include "common/cuda/row_norm.cuh"
#include "common/cuda/row_stage.cuh"
#include "common/cuda/rows.cuh"
#include "common/cuda/silu.cuh"
#include "common/scalar.h"
#include "gated_state_readout/cuda/launch.h"

namespace ssm {
namespace {

constexpr int kThreads = kGatedReadoutThreads, kParameters = kGatedReadoutParameters;
constexpr int kSums = 1;          // that the forward kernel takes over a row at once
constexpr int kBackwardSums = 3;  // the same of the backward kernel

// The parameters in shared memory, in the order of the sums of their gradients.
enum Parameter { kWeight, kBias, kD, kOutWeight, kOutBias };

// The parameters of neighbouring channels.
template <typename acc, int kVector>
__device__ __forceinline__ void load_parameter(
    const acc* shared, const GatedReadoutLaunch& p, Parameter which, int channel, acc (&out)[kVector]) {
  load<acc, acc>(shared + which * p.channels, channel, out);
}

// Copies all parameters to shared memory.
template <typename acc>
__device__ void share_parameters(const GatedReadoutLaunch& p, acc* shared) {
  const void* sources[kParameters] = {p.weight, p.bias, p.D, p.out_weight, p.out_bias};
  for (int k = 0; k < kParameters; ++k) {
    for (int c = threadIdx.x; c < p.channels; c += kThreads) {
      shared[k * p.channels + c] = static_cast<const acc*>(sources[k])[c];
    }
  }
  __syncthreads();
}

template <typename acc>
__device__ __forceinline__ RowNorm<acc> row_norm(const GatedReadoutLaunch& p, double eps, acc* scratch) {
  return {p.channels, static_cast<acc>(eps), true, p.team, scratch};
}

// Where a thread is: its row, and its place among the threads that have the row.
struct Place {
  int64_t row;
  bool live;  // whether there is such a row
  int lane;

  // The thread's first channel of its vector i.
  template <int kVector>
  __device__ __forceinline__ int channel(const GatedReadoutLaunch& p, int i) const {
    return (i * p.team + lane) * kVector;
  }
  __device__ __forceinline__ bool has(const GatedReadoutLaunch& p, int channel) const {
    return live && channel < p.channels;
  }
};

template <typename scalar_t>
__device__ __forceinline__ acc_t<scalar_t> output_weight(const GatedReadoutLaunch& p, const Place& at) {
  using acc = acc_t<scalar_t>;
  return at.live ? static_cast<acc>(static_cast<const scalar_t*>(p.C)[p.C_of(at.row)]) : acc(0);
}

// What the kernels read a row ahead.
template <typename scalar_t, int kVector, int kItems>
struct GatedReadoutStages {
  template <int kSlots>
  using Stage = RowStage<scalar_t, kThreads, kVector, kItems, kSlots>;

  Stage<1> h;
  Stage<2> x, gate, grad_y;  // read late, so that the next row is there, too
  size_t bytes;

  C10_HOST_DEVICE GatedReadoutStages(const GatedReadoutLaunch& p, char* memory)
      : GatedReadoutStages(p, Carver(memory)) {}

  __device__ __forceinline__ void start(const GatedReadoutLaunch& p, int turn, int64_t row) const {
    const bool live = row < p.rows;
    h.start(turn, row, live);
    x.start(turn, row, live);
    gate.start(turn, row, live);
    grad_y.start(turn, row, live);
    close_copy_group();
  }

 private:
  C10_HOST_DEVICE GatedReadoutStages(const GatedReadoutLaunch& p, Carver&& carver)
      : h(p.h, false, p.team, p.channels, carver),
        x(p.x, false, p.team, p.channels, carver),
        gate(p.gate, false, p.team, p.channels, p.gate_stride, carver),
        grad_y(p.grad_y, false, p.team, p.channels, carver),
        bytes(carver.bytes()) {}
};

// r = C (n weight + bias) + D x, rounded as a map of scalar_t would be; 0 beyond the row's end. n is the normed h.
template <typename scalar_t, typename Stage, int kVector, int kItems, typename acc>
__device__ __forceinline__ void read_out(const GatedReadoutLaunch& p, const Place& at, acc C, const acc* parameters,
    const Stage& stage, int turn, const acc (&n)[kItems][kVector], acc (&r)[kItems][kVector]) {
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int channel = at.channel<kVector>(p, i);
    if (!at.has(p, channel)) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) r[i][v] = 0;
      continue;
    }
    acc weight[kVector], bias[kVector], D[kVector], x[kVector];
    load_parameter(parameters, p, kWeight, channel, weight);
    load_parameter(parameters, p, kBias, channel, bias);
    load_parameter(parameters, p, kD, channel, D);
    stage.take(turn, at.row, at.live, i, x);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const acc sum = C * (n[i][v] * weight[v] + bias[v]) + D[v] * x[v];
      r[i][v] = static_cast<acc>(static_cast<scalar_t>(sum));
    }
  }
}

template <typename scalar_t, int kVector, int kItems>
__global__ void __launch_bounds__(kThreads, kGatedReadoutMinBlocks) gated_readout_kernel(GatedReadoutLaunch p) {
  using acc = acc_t<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  const GatedReadoutMemory<acc> shared(p.channels, kSums, memory);
  acc* const parameters = shared.parameters;
  const GatedReadoutStages<scalar_t, kVector, kItems> stages(p, memory + shared.bytes);
  const int teams = kThreads / p.team;
  const int64_t step = static_cast<int64_t>(gridDim.x) * teams;
  Place at{
      static_cast<int64_t>(blockIdx.x) * teams + threadIdx.x / p.team, false, static_cast<int>(threadIdx.x) % p.team};
  stages.start(p, 0, at.row);
  share_parameters(p, parameters);
  int turn = 0;
  // All teams of a block take the same number of turns, since they wait for each other in sum_over_threads.
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < p.rows; first += step, ++turn) {
    at.live = at.row < p.rows;
    const acc C = output_weight<scalar_t>(p, at);  // arrives while the row is normalised
    acc r[kItems][kVector];
    wait_for_copies();
    stages.h.take(turn, at.row, at.live, r);
    stages.start(p, turn + 1, at.row + step);
    normalize(row_norm(p, p.eps, shared.scratch), at.lane, r);
    read_out<scalar_t>(p, at, C, parameters, stages.x, turn, r, r);
    normalize(row_norm(p, p.out_eps, shared.scratch), at.lane, r);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = at.channel<kVector>(p, i);
      if (!at.has(p, channel)) continue;
      acc weight[kVector], bias[kVector], z[kVector], y[kVector];
      load_parameter(parameters, p, kOutWeight, channel, weight);
      load_parameter(parameters, p, kOutBias, channel, bias);
      stages.gate.take(turn, at.row, at.live, i, z);
#pragma unroll
      for (int v = 0; v < kVector; ++v) y[v] = (r[i][v] * weight[v] + bias[v]) * Silu<scalar_t>(z[v]).value;
      store<acc, scalar_t>(p.y, at.row * p.channels + channel, y);
    }
    at.row += step;
  }
}

// From the gradient of y to that of r; see norm/cuda/kernels.cuh. n is the normed r, and `scale` its factor. Adds to
// the sums of the second norm's parameters, and writes the gradient of the gate.
template <typename scalar_t, int kVector, int kItems, typename acc>
__device__ __forceinline__ void through_gated_norm(const GatedReadoutLaunch& p, const Place& at, acc scale,
    const acc* parameters, acc* scratch, const GatedReadoutStages<scalar_t, kVector, kItems>& stages, int turn,
    const acc (&n)[kItems][kVector], acc (&sums)[kParameters][kItems][kVector], acc (&g)[kItems][kVector]) {
  acc of_row[2] = {0, 0};  // Σ w g, Σ w g n
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int channel = at.channel<kVector>(p, i);
    if (!at.has(p, channel)) continue;  // without a row, n is no number if eps is 0
    acc weight[kVector], bias[kVector], z[kVector];
    load_parameter(parameters, p, kOutWeight, channel, weight);
    load_parameter(parameters, p, kOutBias, channel, bias);
    stages.gate.take(turn, at.row, at.live, i, z);
    stages.grad_y.take(turn, at.row, at.live, i, g[i]);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const Silu<scalar_t> silu(z[v]);
      z[v] = g[i][v] * (n[i][v] * weight[v] + bias[v]) * silu.slope;
      const acc of_norm = g[i][v] * silu.value;
      sums[kOutWeight][i][v] += of_norm * n[i][v];
      sums[kOutBias][i][v] += of_norm;
      g[i][v] = of_norm * weight[v];
      of_row[0] += g[i][v];
      of_row[1] += g[i][v] * n[i][v];
    }
    store<acc, scalar_t>(p.grad_gate, at.row * p.channels + channel, z);
  }
  sum_over_threads(of_row, p.team, scratch);
  const acc mean = of_row[0] / p.channels, slope = of_row[1] / p.channels;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) g[i][v] = scale * (g[i][v] - mean - n[i][v] * slope);
  }
}

// From the gradient g of r to those of h, x and C; see state_readout/cuda/kernels.cu. n is the normed h, and `scale`
// its factor. Adds to the sums of the readout's parameters.
template <typename scalar_t, int kVector, int kItems, typename acc>
__device__ __forceinline__ void through_readout(const GatedReadoutLaunch& p, const Place& at, acc C, acc scale,
    const acc* parameters, acc* scratch, const GatedReadoutStages<scalar_t, kVector, kItems>& stages, int turn,
    const acc (&n)[kItems][kVector], acc (&sums)[kParameters][kItems][kVector], acc (&g)[kItems][kVector]) {
  acc of_row[kBackwardSums] = {0, 0, 0};  // Σ b g, and ∂C in the end; Σ w g; Σ w g n
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int channel = at.channel<kVector>(p, i);
    if (!at.has(p, channel)) continue;
    acc weight[kVector], bias[kVector], D[kVector], x[kVector];
    load_parameter(parameters, p, kWeight, channel, weight);
    load_parameter(parameters, p, kBias, channel, bias);
    load_parameter(parameters, p, kD, channel, D);
    stages.x.take(turn, at.row, at.live, i, x);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const acc gradient = g[i][v], weighted = gradient * weight[v];
      of_row[0] += gradient * bias[v];
      of_row[1] += weighted;
      of_row[2] += weighted * n[i][v];
      sums[kWeight][i][v] += C * gradient * n[i][v];
      sums[kBias][i][v] += C * gradient;
      sums[kD][i][v] += gradient * x[v];
      x[v] = D[v] * gradient;
      g[i][v] = weighted;
    }
    store<acc, scalar_t>(p.grad_x, at.row * p.channels + channel, x);
  }
  of_row[0] += of_row[2];
  sum_over_threads(of_row, p.team, scratch);
  if (at.live && at.lane == 0) static_cast<scalar_t*>(p.grad_C)[at.row] = static_cast<scalar_t>(of_row[0]);
  const acc mean = of_row[1] / p.channels, slope = of_row[2] / p.channels, factor = C * scale;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int channel = at.channel<kVector>(p, i);
    if (!at.has(p, channel)) continue;
#pragma unroll
    for (int v = 0; v < kVector; ++v) g[i][v] = factor * (g[i][v] - mean - n[i][v] * slope);
    store<acc, scalar_t>(p.grad_h, at.row * p.channels + channel, g[i]);
  }
}

template <typename scalar_t, int kVector, int kItems>
__global__ void __launch_bounds__(kThreads, kGatedReadoutBackwardMinBlocks)
    gated_readout_backward_kernel(GatedReadoutLaunch p) {
  using acc = acc_t<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  const GatedReadoutMemory<acc> shared(p.channels, kBackwardSums, memory);
  acc *const scratch = shared.scratch, *const parameters = shared.parameters;
  const GatedReadoutStages<scalar_t, kVector, kItems> stages(p, memory + shared.bytes);
  const int teams = kThreads / p.team;
  const int64_t step = static_cast<int64_t>(gridDim.x) * teams;
  Place at{
      static_cast<int64_t>(blockIdx.x) * teams + threadIdx.x / p.team, false, static_cast<int>(threadIdx.x) % p.team};
  stages.start(p, 0, at.row);
  share_parameters(p, parameters);
  acc sums[kParameters][kItems][kVector] = {};
  int turn = 0;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < p.rows; first += step, ++turn) {
    at.live = at.row < p.rows;
    const acc C = output_weight<scalar_t>(p, at);
    acc n[kItems][kVector], r[kItems][kVector], g[kItems][kVector] = {};
    wait_for_copies();
    stages.h.take(turn, at.row, at.live, n);
    stages.start(p, turn + 1, at.row + step);
    const acc scale = normalize(row_norm(p, p.eps, scratch), at.lane, n);
    read_out<scalar_t>(p, at, C, parameters, stages.x, turn, n, r);
    const acc out_scale = normalize(row_norm(p, p.out_eps, scratch), at.lane, r);
    through_gated_norm(p, at, out_scale, parameters, scratch, stages, turn, r, sums, g);
    through_readout(p, at, C, scale, parameters, scratch, stages, turn, n, sums, g);
    at.row += step;
  }
  sum_over_teams<kThreads>(p.team, p.channels, sums, parameters);
  const int64_t count = static_cast<int64_t>(kParameters) * p.channels;
  acc* const out = static_cast<acc*>(p.partial) + blockIdx.x * count;
  for (int64_t c = threadIdx.x; c < count; c += kThreads) out[c] = parameters[c];
}

template <typename scalar_t, int kVector, int kItems>
void launch(void (*kernel)(GatedReadoutLaunch), const GatedReadoutLaunch& p, int sums) {
  const char* const op = "gated_state_readout";
  const size_t bytes = GatedReadoutMemory<acc_t<scalar_t>>(p.channels, sums, nullptr).bytes +
                       stage_bytes(GatedReadoutStages<scalar_t, kVector, kItems>(p, nullptr).bytes, op);
  launch_kernel(op, kernel, {dim3(grid_blocks(p.blocks, op)), dim3(kThreads), bytes, 1, current_stream()}, p);
}

template <typename scalar_t, const RowShape& kShape>
void launch_forward(const GatedReadoutLaunch& p) {
  launch<scalar_t, kShape.width, kShape.items>(gated_readout_kernel<scalar_t, kShape.width, kShape.items>, p, kSums);
}

template <typename scalar_t, const RowShape& kShape>
void launch_backward(const GatedReadoutLaunch& p) {
  launch<scalar_t, kShape.width, kShape.items>(
      gated_readout_backward_kernel<scalar_t, kShape.width, kShape.items>, p, kBackwardSums);
}

}  // namespace

template <typename scalar_t>
void launch_gated_readout(const GatedReadoutLaunch& p) {
  p.fours ? launch_forward<scalar_t, kGatedReadoutFours>(p) : launch_forward<scalar_t, kGatedReadoutOnes>(p);
}

template <typename scalar_t>
void launch_gated_readout_backward(const GatedReadoutLaunch& p) {
  p.fours ? launch_backward<scalar_t, kGatedReadoutFours>(p) : launch_backward<scalar_t, kGatedReadoutOnes>(p);
  ColumnSums sums{p.partial, p.blocks, int64_t{kParameters} * p.channels, {}, {}};
  for (int k = 0; k < kParameters; ++k) {
    sums.ends[k] = int64_t{k + 1} * p.channels;
    sums.sums[k] = p.grad_parameters[k];
  }
  launch_column_sums<acc_t<scalar_t>, GatedReadoutParams>("gated_state_readout", sums);
}

template void launch_gated_readout<double>(const GatedReadoutLaunch&);
template void launch_gated_readout<float>(const GatedReadoutLaunch&);
template void launch_gated_readout<c10::Half>(const GatedReadoutLaunch&);
template void launch_gated_readout<c10::BFloat16>(const GatedReadoutLaunch&);
template void launch_gated_readout_backward<double>(const GatedReadoutLaunch&);
template void launch_gated_readout_backward<float>(const GatedReadoutLaunch&);
template void launch_gated_readout_backward<c10::Half>(const GatedReadoutLaunch&);
template void launch_gated_readout_backward<c10::BFloat16>(const GatedReadoutLaunch&);

}  // namespace ssm
