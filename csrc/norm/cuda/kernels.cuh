// The norms over channels, forward and backward, each in one pass over memory.
#pragma once

#include <type_traits>

#include "common/cuda/column_sums.cuh"
#include "common/cuda/launch.h"
#include "common/cuda/reduce.cuh"
#include "common/cuda/row_norm.cuh"
#include "common/cuda/row_stage.cuh"
#include "common/cuda/rows.cuh"
#include "common/cuda/silu.cuh"
#include "common/scalar.h"
#include "norm/cuda/launch.h"

namespace ssm {
namespace {

constexpr int kNormForwardSums = 1;   // that the forward kernel takes over a row at once
constexpr int kNormGradientSums = 2;  // the same of the backward kernel

// Where a thread is: its row, and its place among the threads that have the row.
struct NormPlace {
  int64_t row;
  bool live;  // whether there is such a row
  int lane;
};

// The thread's first channel of its vector i.
template <int kVector>
__device__ __forceinline__ int channel_of(const NormLaunch& p, int lane, int i) {
  return (i * p.team + lane) * kVector;
}

// Where the thread reads the parameters of its vector i: beyond the row's end those of the last vector, since they are
// multiplied by 0 there. With a branch for each vector, no vector would begin before the last has ended.
template <int kVector>
__device__ __forceinline__ int parameters_of(const NormLaunch& p, int lane, int i) {
  return min(channel_of<kVector>(p, lane, i), p.channels - kVector);
}

__device__ __forceinline__ bool live_at(const NormLaunch& p, const NormPlace& at, int channel) {
  return at.live && channel < p.channels;
}

template <typename stored_t, int kVector, int kItems, typename acc>
__device__ __forceinline__ void read_as(
    const NormLaunch& p, const void* base, const NormPlace& at, acc (&out)[kItems][kVector]) {
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int channel = channel_of<kVector>(p, at.lane, i);
    if (live_at(p, at, channel)) {
      load<acc, stored_t>(base, at.row * p.channels + channel, out[i]);
    } else {
#pragma unroll
      for (int v = 0; v < kVector; ++v) out[i][v] = 0;
    }
  }
}

// Reads the thread's channels of its row. There is one branch for all of them, so that they are on their way together.
// With `kNarrow` there is none: the map has scalar_t.
template <typename scalar_t, bool kNarrow = false, int kVector, int kItems, typename acc>
__device__ __forceinline__ void read(
    const NormLaunch& p, const void* base, bool wide, const NormPlace& at, acc (&out)[kItems][kVector]) {
  if constexpr (!std::is_same_v<scalar_t, acc>) {
    if (kNarrow || !wide) return read_as<scalar_t>(p, base, at, out);
  }
  read_as<acc>(p, base, at, out);
}

template <typename stored_t, int kVector, int kItems, typename acc>
__device__ __forceinline__ void write_as(
    const NormLaunch& p, void* base, const NormPlace& at, const acc (&in)[kItems][kVector]) {
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int channel = channel_of<kVector>(p, at.lane, i);
    if (live_at(p, at, channel)) store<acc, stored_t>(base, at.row * p.channels + channel, in[i]);
  }
}

template <typename scalar_t, bool kNarrow = false, int kVector, int kItems, typename acc>
__device__ __forceinline__ void write(
    const NormLaunch& p, void* base, bool wide, const NormPlace& at, const acc (&in)[kItems][kVector]) {
  if constexpr (!std::is_same_v<scalar_t, acc>) {
    if (kNarrow || !wide) return write_as<scalar_t>(p, base, at, in);
  }
  write_as<acc>(p, base, at, in);
}

// Copies a parameter to shared memory; a missing one is 0.
template <typename acc>
__device__ void share_parameter(const NormLaunch& p, const void* parameter, acc* shared) {
  for (int c = threadIdx.x; c < p.channels; c += kNormThreads) {
    shared[c] = parameter == nullptr ? acc(0) : static_cast<const acc*>(parameter)[c];
  }
}

template <typename acc>
__device__ __forceinline__ RowNorm<acc> row_norm(const NormLaunch& p, acc* scratch) {
  return {p.channels, acc(1) / p.channels, static_cast<acc>(p.eps), p.centred, p.team, scratch};
}

template <typename scalar_t, int kVector, int kItems, bool kGated>
__global__ void __launch_bounds__(kNormThreads) norm_kernel(NormLaunch p) {
  using acc = acc_t<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  const NormMemory<acc> shared(p.channels, kNormForwardSums, memory);
  const acc *const weights = shared.parameters, *const biases = weights + p.channels;
  share_parameter(p, p.weight, shared.parameters);
  share_parameter(p, p.bias, shared.parameters + p.channels);
  __syncthreads();
  const RowNorm<acc> norm = row_norm(p, shared.scratch);
  const int lane = lane_of_team(p.team), teams = kNormThreads / p.team;
  // All teams of a block take the same number of turns, since they wait for each other in sum_over_threads.
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < p.rows;
      first += static_cast<int64_t>(gridDim.x) * teams) {
    const int64_t row = first + number_of_team(p.team);
    const NormPlace at{row, row < p.rows, lane};
    acc n[kItems][kVector];
    read<scalar_t, kGated>(p, p.x, p.x_wide, at, n);
    acc z[kItems][kVector];
    if constexpr (kGated) read<scalar_t, kGated>(p, p.gate, p.x_wide, at, z);  // arrives while the row is normalised
    if (!kGated && p.residual != nullptr) {
      acc residual[kItems][kVector];
      read<scalar_t>(p, p.residual, p.stream_wide, at, residual);
      const acc factor = at.live ? p.scale_of<acc>(row) : acc(0);
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          n[i][v] = residual[i][v] + factor * n[i][v];
          // Rounded as the stream is, so that the backward pass sees the same.
          if (!p.stream_wide) n[i][v] = static_cast<acc>(static_cast<scalar_t>(n[i][v]));
        }
      }
      write<scalar_t>(p, p.stream, p.stream_wide, at, n);
    }
    normalize(norm, lane, at.live, n);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = parameters_of<kVector>(p, lane, i);
      acc weight[kVector], bias[kVector];
      load<acc, acc>(weights, channel, weight);
      load<acc, acc>(biases, channel, bias);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        n[i][v] = n[i][v] * weight[v] + bias[v];
        if constexpr (kGated) n[i][v] *= Silu<scalar_t>(z[i][v]).value;
      }
    }
    write<scalar_t, kGated>(p, p.y, p.y_wide, at, n);
  }
}

// What the backward kernel reads a row ahead.
template <typename scalar_t, int kVector, int kItems, bool kGated>
struct NormStages {
  template <int kSlots>
  using Stage = RowStage<scalar_t, kNormThreads, kVector, kItems, kSlots>;

  Stage<1> stream, grad_y;
  Stage<2> other;  // the gate, or what the stream's gradient has besides: read late, so that the next row is there, too
  size_t bytes;

  C10_HOST_DEVICE NormStages(const NormLaunch& p, char* memory) : NormStages(p, Carver(memory)) {}

  __device__ __forceinline__ void start(const NormLaunch& p, int turn, int64_t row) const {
    stream.start(turn, row, row < p.rows);
    grad_y.start(turn, row, row < p.rows);
    other.start(turn, row, row < p.rows);
    close_copy_group();
  }

 private:
  C10_HOST_DEVICE NormStages(const NormLaunch& p, Carver&& carver)
      : stream(p.kept_stream, !kGated && p.stream_wide, p.team, p.channels, carver),
        grad_y(p.grad_y, !kGated && p.y_wide, p.team, p.channels, carver),
        other(kGated ? p.gate : p.grad_stream, !kGated && p.stream_wide, p.team, p.channels, carver),
        bytes(carver.bytes()) {}
};

// Turns the gradient g of the product with silu(z) into that of the norm, and writes the gradient of the gate z. n is
// the row, brought to mean square 1.
template <typename scalar_t, typename Stage, int kVector, int kItems, typename acc>
__device__ __forceinline__ void through_gate(const NormLaunch& p, const NormPlace& at, const acc (&n)[kItems][kVector],
    const acc* parameters, const Stage& gate, int turn, acc (&g)[kItems][kVector]) {
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int channel = channel_of<kVector>(p, at.lane, i);
    if (!live_at(p, at, channel)) continue;
    acc weight[kVector], bias[kVector], z[kVector];
    load<acc, acc>(parameters, channel, weight);
    load<acc, acc>(parameters + p.channels, channel, bias);
    gate.take(turn, at.row, at.live, i, z);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const Silu<scalar_t> silu(z[v]);
      z[v] = g[i][v] * (n[i][v] * weight[v] + bias[v]) * silu.slope;
      g[i][v] *= silu.value;
    }
    store<acc, scalar_t>(p.grad_gate, at.row * p.channels + channel, z);
  }
}

// With n the normed row and w the weight, the gradient through the norm is that of the row times n and 1 taken off:
// (w g - mean(w g) - n · mean(w g n)) / σ. Over the rows, ∂w = Σ g n and ∂b = Σ g. With a gate z, g is the gradient of
// y times silu(z).
template <typename scalar_t, int kVector, int kItems, bool kGated>
__global__ void __launch_bounds__(kNormThreads, kNormBackwardMinBlocks) norm_backward_kernel(NormLaunch p) {
  using acc = acc_t<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  const NormMemory<acc> shared(p.channels, kNormGradientSums, memory);
  const NormStages<scalar_t, kVector, kItems, kGated> stages(p, memory + shared.bytes);
  const RowNorm<acc> norm = row_norm(p, shared.scratch);
  const int lane = lane_of_team(p.team), teams = kNormThreads / p.team;
  const int64_t step = static_cast<int64_t>(gridDim.x) * teams;
  stages.start(p, 0, static_cast<int64_t>(blockIdx.x) * teams + number_of_team(p.team));
  share_parameter(p, p.weight, shared.parameters);
  if constexpr (kGated) share_parameter(p, p.bias, shared.parameters + p.channels);
  __syncthreads();
  acc sums[kNormParameters][kItems][kVector] = {};
  int turn = 0;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < p.rows; first += step, ++turn) {
    const int64_t row = first + number_of_team(p.team);
    const NormPlace at{row, row < p.rows, lane};
    acc n[kItems][kVector], g[kItems][kVector];
    wait_for_copies();
    stages.stream.take(turn, row, at.live, n);
    stages.grad_y.take(turn, row, at.live, g);
    stages.start(p, turn + 1, row + step);
    const acc scale = normalize(norm, lane, at.live, n);
    if constexpr (kGated) through_gate<scalar_t>(p, at, n, shared.parameters, stages.other, turn, g);
    acc of_row[kNormGradientSums] = {0, 0};  // Σ w g, Σ w g n
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      acc weight[kVector];
      load<acc, acc>(shared.parameters, parameters_of<kVector>(p, lane, i), weight);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        sums[0][i][v] += g[i][v] * n[i][v];
        sums[1][i][v] += g[i][v];
        g[i][v] *= weight[v];
        of_row[0] += g[i][v];
        of_row[1] += g[i][v] * n[i][v];
      }
    }
    sum_over_threads(of_row, p.team, shared.scratch);
    const acc mean = p.centred ? of_row[0] * norm.share : acc(0), slope = of_row[1] * norm.share;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      acc more[kVector] = {};
      if constexpr (!kGated) stages.other.take_or_zeros(turn, row, at.live, i, more);
#pragma unroll
      for (int v = 0; v < kVector; ++v) g[i][v] = scale * (g[i][v] - mean - n[i][v] * slope) + more[v];
    }
    write<scalar_t, kGated>(p, p.grad_residual, p.stream_wide, at, g);
    if (kGated || p.grad_x == nullptr) continue;
    const acc factor = at.live ? p.scale_of<acc>(row) : acc(0);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) g[i][v] *= factor;
    }
    write<scalar_t>(p, p.grad_x, p.x_wide, at, g);
  }
  sum_over_teams<kNormThreads>(p.team, p.channels, sums, shared.parameters);
  const int64_t count = static_cast<int64_t>(kNormParameters) * p.channels;
  acc* const out = static_cast<acc*>(p.partial) + blockIdx.x * count;
  for (int64_t c = threadIdx.x; c < count; c += kNormThreads) out[c] = shared.parameters[c];
}

// Calls `run` with the two numbers of the shape, and whether there is a gate, as types.
template <typename Run>
void with_shape(const NormLaunch& p, const Run& run) {
  const auto with_gate = [&](auto width, auto items) {
    return p.gate != nullptr ? run(width, items, std::true_type{}) : run(width, items, std::false_type{});
  };
  switch (p.shape) {
    case NormShape::kThreeFours:
      return with_gate(
          std::integral_constant<int, kNormThreeFours.width>{}, std::integral_constant<int, kNormThreeFours.items>{});
    case NormShape::kFiveFours:
      return with_gate(
          std::integral_constant<int, kNormFiveFours.width>{}, std::integral_constant<int, kNormFiveFours.items>{});
    case NormShape::kOnes:
      return with_gate(std::integral_constant<int, kNormOnes.width>{}, std::integral_constant<int, kNormOnes.items>{});
  }
}

template <typename scalar_t, typename Kernel>
void launch_rows(Kernel* kernel, const NormLaunch& p, int sums, size_t stages = 0) {
  const size_t bytes = NormMemory<acc_t<scalar_t>>(p.channels, sums, nullptr).bytes + stages;
  launch_kernel(
      "norm", kernel, {dim3(grid_blocks(p.blocks, "norm")), dim3(kNormThreads), bytes, 1, current_stream()}, p);
}

}  // namespace

template <typename scalar_t>
void launch_norm(const NormLaunch& p) {
  with_shape(p, [&](auto width, auto items, auto gated) {
    launch_rows<scalar_t>(norm_kernel<scalar_t, width.value, items.value, gated.value>, p, kNormForwardSums);
  });
}

template <typename scalar_t>
void launch_norm_backward(const NormLaunch& p) {
  with_shape(p, [&](auto width, auto items, auto gated) {
    const NormStages<scalar_t, width.value, items.value, gated.value> stages(p, nullptr);
    launch_rows<scalar_t>(norm_backward_kernel<scalar_t, width.value, items.value, gated.value>, p, kNormGradientSums,
        stage_bytes(stages.bytes, "norm"));
  });
  const int64_t channels = p.channels;
  launch_column_sums<acc_t<scalar_t>, NormParams>("norm",
      {p.partial, p.blocks, kNormParameters * channels, {channels, 2 * channels}, {p.grad_weight, p.grad_bias}});
}

}  // namespace ssm
