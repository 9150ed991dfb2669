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

// The channels that a team's threads have places for.
template <int kVector, int kItems>
C10_HOST_DEVICE int places_of(const GatedReadoutLaunch& p) {
  return p.team * kVector * kItems;
}

// Copies all parameters to shared memory, `places` numbers each. There are zeros beyond the channels, so that threads
// compute with all of their places: with a branch for each vector, no vector would begin before the last has ended.
template <typename acc>
__device__ void share_parameters(const GatedReadoutLaunch& p, int places, acc* shared) {
  const void* sources[kParameters] = {p.weight, p.bias, p.D, p.out_weight, p.out_bias};
  for (int k = 0; k < kParameters; ++k) {
    for (int c = threadIdx.x; c < places; c += kThreads) {
      shared[k * places + c] = c < p.channels ? static_cast<const acc*>(sources[k])[c] : acc(0);
    }
  }
  __syncthreads();
}

template <typename acc>
__device__ __forceinline__ RowNorm<acc> row_norm(const GatedReadoutLaunch& p, double eps, acc* scratch) {
  return {p.channels, acc(1) / p.channels, static_cast<acc>(eps), true, p.team, scratch};
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
  // The parameters of the thread's vector i.
  template <int kVector, int kItems, typename acc>
  __device__ __forceinline__ void load_parameter(
      const GatedReadoutLaunch& p, const acc* shared, Parameter which, int i, acc (&out)[kVector]) const {
    load<acc, acc>(shared, which * places_of<kVector, kItems>(p) + channel<kVector>(p, i), out);
  }
  // Writes the thread's vector i, if there is one.
  template <typename scalar_t, int kVector, typename acc>
  __device__ __forceinline__ void write(const GatedReadoutLaunch& p, void* map, int i, const acc (&in)[kVector]) const {
    const int first = channel<kVector>(p, i);
    if (live && first < p.channels) store<acc, scalar_t>(map, row * p.channels + first, in);
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
    acc weight[kVector], bias[kVector], D[kVector], x[kVector];
    at.load_parameter<kVector, kItems>(p, parameters, kWeight, i, weight);
    at.load_parameter<kVector, kItems>(p, parameters, kBias, i, bias);
    at.load_parameter<kVector, kItems>(p, parameters, kD, i, D);
    stage.take(turn, at.row, at.live, i, x);
#pragma unroll
    for (int v = 0; v < kVector; ++v) r[i][v] = C * (n[i][v] * weight[v] + bias[v]) + D[v] * x[v];
    round_as<scalar_t>(r[i]);
  }
}

template <typename scalar_t, int kVector, int kItems>
__global__ void __launch_bounds__(kThreads, kGatedReadoutMinBlocks) gated_readout_kernel(GatedReadoutLaunch p) {
  using acc = acc_t<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  const GatedReadoutMemory<acc> shared(places_of<kVector, kItems>(p), kSums, memory);
  acc* const parameters = shared.parameters;
  const GatedReadoutStages<scalar_t, kVector, kItems> stages(p, memory + shared.bytes);
  const RowNorm<acc> norm = row_norm(p, p.eps, shared.scratch), out_norm = row_norm(p, p.out_eps, shared.scratch);
  const int teams = kThreads / p.team;
  const int64_t step = static_cast<int64_t>(gridDim.x) * teams;
  Place at{static_cast<int64_t>(blockIdx.x) * teams + number_of_team(p.team), false, lane_of_team(p.team)};
  stages.start(p, 0, at.row);
  share_parameters(p, places_of<kVector, kItems>(p), parameters);
  int turn = 0;
  // All teams of a block take the same number of turns, since they wait for each other in sum_over_threads.
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < p.rows; first += step, ++turn) {
    at.live = at.row < p.rows;
    const acc C = output_weight<scalar_t>(p, at);  // arrives while the row is normalised
    acc r[kItems][kVector];
    wait_for_copies();
    stages.h.take(turn, at.row, at.live, r);
    stages.start(p, turn + 1, at.row + step);
    normalize(norm, at.lane, at.live, r);
    read_out<scalar_t>(p, at, C, parameters, stages.x, turn, r, r);
    normalize(out_norm, at.lane, at.live, r);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      acc weight[kVector], bias[kVector], z[kVector], y[kVector];
      at.load_parameter<kVector, kItems>(p, parameters, kOutWeight, i, weight);
      at.load_parameter<kVector, kItems>(p, parameters, kOutBias, i, bias);
      stages.gate.take(turn, at.row, at.live, i, z);
#pragma unroll
      for (int v = 0; v < kVector; ++v) y[v] = (r[i][v] * weight[v] + bias[v]) * Silu<scalar_t>(z[v]).value;
      at.write<scalar_t>(p, p.y, i, y);
    }
    at.row += step;
  }
}

// From the gradient of y to that of r; see norm/cuda/kernels.cuh. n is the normed r, and `scale` its factor. Adds to
// the sums of the second norm's parameters, and writes the gradient of the gate.
template <typename scalar_t, int kVector, int kItems, typename acc>
__device__ __forceinline__ void through_gated_norm(const GatedReadoutLaunch& p, const Place& at, acc scale, acc share,
    const acc* parameters, acc* scratch, const GatedReadoutStages<scalar_t, kVector, kItems>& stages, int turn,
    const acc (&n)[kItems][kVector], acc (&sums)[kParameters][kItems][kVector], acc (&g)[kItems][kVector]) {
  acc of_row[2] = {0, 0};  // Σ w g, Σ w g n
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    acc weight[kVector], bias[kVector], z[kVector];
    at.load_parameter<kVector, kItems>(p, parameters, kOutWeight, i, weight);
    at.load_parameter<kVector, kItems>(p, parameters, kOutBias, i, bias);
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
    at.write<scalar_t>(p, p.grad_gate, i, z);
  }
  sum_over_threads(of_row, p.team, scratch);
  const acc mean = of_row[0] * share, slope = of_row[1] * share;
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
    acc share, const acc* parameters, acc* scratch, const GatedReadoutStages<scalar_t, kVector, kItems>& stages,
    int turn, const acc (&n)[kItems][kVector], acc (&sums)[kParameters][kItems][kVector], acc (&g)[kItems][kVector]) {
  acc of_row[kBackwardSums] = {0, 0, 0};  // Σ b g, and ∂C in the end; Σ w g; Σ w g n
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    acc weight[kVector], bias[kVector], D[kVector], x[kVector];
    at.load_parameter<kVector, kItems>(p, parameters, kWeight, i, weight);
    at.load_parameter<kVector, kItems>(p, parameters, kBias, i, bias);
    at.load_parameter<kVector, kItems>(p, parameters, kD, i, D);
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
    at.write<scalar_t>(p, p.grad_x, i, x);
  }
  of_row[0] += of_row[2];
  sum_over_threads(of_row, p.team, scratch);
  if (at.live && at.lane == 0) static_cast<scalar_t*>(p.grad_C)[at.row] = static_cast<scalar_t>(of_row[0]);
  const acc mean = of_row[1] * share, slope = of_row[2] * share, factor = C * scale;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) g[i][v] = factor * (g[i][v] - mean - n[i][v] * slope);
    at.write<scalar_t>(p, p.grad_h, i, g[i]);
  }
}

template <typename scalar_t, int kVector, int kItems>
__global__ void __launch_bounds__(kThreads, kGatedReadoutBackwardMinBlocks)
    gated_readout_backward_kernel(GatedReadoutLaunch p) {
  using acc = acc_t<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  const GatedReadoutMemory<acc> shared(places_of<kVector, kItems>(p), kBackwardSums, memory);
  acc *const scratch = shared.scratch, *const parameters = shared.parameters;
  const GatedReadoutStages<scalar_t, kVector, kItems> stages(p, memory + shared.bytes);
  const RowNorm<acc> norm = row_norm(p, p.eps, shared.scratch), out_norm = row_norm(p, p.out_eps, shared.scratch);
  const int teams = kThreads / p.team;
  const int64_t step = static_cast<int64_t>(gridDim.x) * teams;
  Place at{static_cast<int64_t>(blockIdx.x) * teams + number_of_team(p.team), false, lane_of_team(p.team)};
  stages.start(p, 0, at.row);
  share_parameters(p, places_of<kVector, kItems>(p), parameters);
  acc sums[kParameters][kItems][kVector] = {};
  int turn = 0;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < p.rows; first += step, ++turn) {
    at.live = at.row < p.rows;
    const acc C = output_weight<scalar_t>(p, at);
    acc n[kItems][kVector], r[kItems][kVector], g[kItems][kVector] = {};
    wait_for_copies();
    stages.h.take(turn, at.row, at.live, n);
    stages.start(p, turn + 1, at.row + step);
    const acc scale = normalize(norm, at.lane, at.live, n);
    read_out<scalar_t>(p, at, C, parameters, stages.x, turn, n, r);
    const acc out_scale = normalize(out_norm, at.lane, at.live, r);
    through_gated_norm(p, at, out_scale, norm.share, parameters, scratch, stages, turn, r, sums, g);
    through_readout(p, at, C, scale, norm.share, parameters, scratch, stages, turn, n, sums, g);
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
  const size_t bytes = GatedReadoutMemory<acc_t<scalar_t>>(places_of<kVector, kItems>(p), sums, nullptr).bytes +
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
