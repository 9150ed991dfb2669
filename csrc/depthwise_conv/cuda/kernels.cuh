// The depthwise convolution with SiLU, forward and backward, each in one pass over memory.
#pragma once

#include "common/cuda/column_sums.cuh"
#include "common/cuda/launch.h"
#include "common/cuda/silu.cuh"
#include "depthwise_conv/cuda/walk.cuh"

namespace ssm {
namespace {

// Σ_j weight[i, j] x[c + j] for the row i of the window; `mirrored` takes the columns the other way around.
template <bool kMirrored, typename acc, int kVector>
__device__ __forceinline__ acc row_of_window(
    const acc (&weight)[kConvTaps][kVector], int i, const acc (&x)[kConvColumns + 2][kVector], int c, int v, acc sum) {
#pragma unroll
  for (int j = 0; j < kConvSide; ++j) {
    sum += weight[i * kConvSide + j][v] * x[c + (kMirrored ? kConvSide - 1 - j : j)][v];
  }
  return sum;
}

// Each row of x is read once, and added to the three rows of the result that it has a part in.
template <typename scalar_t, bool kAligned>
__global__ void __launch_bounds__(kConvThreads, kConvMinBlocks) depthwise_conv_kernel(DepthwiseConvLaunch p) {
  using acc = acc_t<scalar_t>;
  constexpr int kVector = kConvVector<scalar_t>, kStages = kConvStages<scalar_t>;
  using Memory = ConvMemory<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  const Memory shared(p.walks, p.places, false, memory);
  const ConvPlace<scalar_t> of(p);
  const int columns = Memory::x_columns(p.places);
  const int walk_bytes = of.walk * columns * kConvTokenBytes<scalar_t>;

  // The rows of x are those of the walk, one before and one after.
  const int rows = p.length + 2;
  const ConvCopies<scalar_t, kAligned> copies(of);
  ConvRow<scalar_t> ahead(p, of.start - 1, copies.column, copies.channel);
  ConvRow<scalar_t> done(p, of.start, of.place * kConvColumns, of.channel);
  const auto fetch = [&](int number) {
    if (number < rows) {
      char* const to = shared.x + number % kStages * shared.x_stage + walk_bytes;
      copies.template start<true>(p, ahead, ahead.exists(p), p.x, to);
      ahead.advance(p);
    }
    close_copy_group();
  };
  for (int s = 0; s < kStages - 1; ++s) fetch(s);

  acc weight[kConvTaps][kVector], bias[1][kVector];
  read_parameter<kConvTaps>(p, of, p.weight, weight);
  read_parameter<1>(p, of, p.bias, bias);
  acc present[kConvColumns][kVector] = {}, next[kConvColumns][kVector] = {};  // what rows of the result are so far
  for (int i = 0; i < rows; ++i) {
    wait_for_copy_groups<kStages - 2>();
    __syncthreads();  // the row is there, and all have read the one whose place the next copy takes
    fetch(i + kStages - 1);
    acc x[kConvColumns + 2][kVector], y[kConvColumns][kVector];
    ConvPack<scalar_t> packed[kConvColumns + 2];
    read_columns(of, shared.x + i % kStages * shared.x_stage + walk_bytes, packed);
#pragma unroll
    for (int c = 0; c < kConvColumns + 2; ++c) unpack<scalar_t>(packed[c], x[c]);
#pragma unroll
    for (int c = 0; c < kConvColumns; ++c) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        y[c][v] = row_of_window<false>(weight, 2, x, c, v, present[c][v]);
        present[c][v] = row_of_window<false>(weight, 1, x, c, v, next[c][v]);
        next[c][v] = row_of_window<false>(weight, 0, x, c, v, bias[0][v]);
      }
    }
    if (i < 2) continue;
    if (done.exists(p)) {
#pragma unroll
      for (int c = 0; c < kConvColumns; ++c) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) y[c][v] *= sigmoid(y[c][v]);
      }
      write_columns<kAligned>(p, of, done, p.y, y);
    }
    done.advance(p);
  }
}

// Adds up what the threads of a block have for the same channels, place by place, and writes the block's part.
template <typename scalar_t, int kVector, typename acc>
__device__ void write_sums(
    const DepthwiseConvLaunch& p, const ConvPlace<scalar_t>& of, const acc (&sums)[kConvSums][kVector], acc* shared) {
  constexpr int kChannels = kConvChannels<scalar_t>;
  const int places = blockDim.x / kConvLanes, place = threadIdx.x / kConvLanes;
  __syncthreads();  // the rows of x have been read
#pragma unroll
  for (int k = 0; k < kConvSums; ++k) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      shared[(k * kConvPlaces + place) * kChannels + of.lane * kVector + v] = sums[k][v];
    }
  }
  __syncthreads();
  acc* const out = static_cast<acc*>(p.partial) + static_cast<int64_t>(blockIdx.y) * kConvSums * p.channels;
  for (int i = threadIdx.x; i < kConvSums * kChannels; i += blockDim.x) {
    const int k = i / kChannels, c = i % kChannels;
    const int64_t channel = of.first_channel + c;
    if (channel >= p.channels) continue;
    acc sum = 0;
    for (int n = 0; n < places; ++n) sum += shared[(k * kConvPlaces + n) * kChannels + c];
    out[k < kConvTaps ? channel * kConvTaps + k : int64_t{kConvTaps} * p.channels + channel] = sum;
  }
}

// p, the result before SiLU, is computed again from three rows of x. With g = ∂y · SiLU'(p) for a row, ∂weight and
// ∂bias are sums over g and these rows, and g has a part in three rows of ∂x. Neighbours exchange the outermost columns
// of g.
template <typename scalar_t, bool kAligned>
__global__ void __launch_bounds__(kConvThreads, kConvBackwardMinBlocks)
    depthwise_conv_backward_kernel(DepthwiseConvLaunch p) {
  using acc = acc_t<scalar_t>;
  constexpr int kVector = kConvVector<scalar_t>, kStages = kConvStages<scalar_t>;
  using Memory = ConvMemory<scalar_t>;
  using Channels = Pack<acc, kVector>;
  extern __shared__ __align__(16) char memory[];
  const Memory shared(p.walks, p.places, true, memory);
  const ConvPlace<scalar_t> of(p);
  const int columns = Memory::columns(p.places);
  const int walk_bytes = of.walk * columns * kConvTokenBytes<scalar_t>;
  const int x_walk_bytes = of.walk * Memory::x_columns(p.places) * kConvTokenBytes<scalar_t>;

  // g is needed for the rows of the walk, one before and one after; x for one more at each end.
  const int rows = p.length + 4;
  const ConvCopies<scalar_t, kAligned> copies(of);
  ConvRow<scalar_t> ahead(p, of.start - 2, copies.column, copies.channel);
  ConvRow<scalar_t> done(p, of.start, of.place * kConvColumns, of.channel);
  unsigned existed = 0;  // a bit for each row that was fetched, the last one lowest: whether it is one of a map
  const auto fetch = [&](int number) {
    existed *= 2;
    if (number < rows) {
      const int stage = number % kStages;
      const bool exists = ahead.exists(p);
      existed |= exists ? 1 : 0;
      copies.template start<true>(p, ahead, exists, p.x, shared.x + stage * shared.x_stage + x_walk_bytes);
      copies.template start<false>(p, ahead, exists, p.grad_y, shared.grad_y + stage * shared.grad_stage + walk_bytes);
      ahead.advance(p);
    }
    close_copy_group();
  };
  for (int s = 0; s < kStages - 1; ++s) fetch(s);

  acc weight[kConvTaps][kVector], bias[1][kVector];
  read_parameter<kConvTaps>(p, of, p.weight, weight);
  read_parameter<1>(p, of, p.bias, bias);
  // Where the thread leaves its outermost columns of g, and where it finds those of its neighbours.
  Channels* const edges = reinterpret_cast<Channels*>(shared.edges) + threadIdx.x;
  constexpr int kSide = kConvThreads, kTurn = 2 * kSide;
  const bool has_left = of.place > 0, has_right = of.place + 1 < p.places;
  // Of a map in tiles, the outermost columns of g count in the neighbouring tile.
  const bool left_counts = p.tiles == 1 || has_left, right_counts = p.tiles == 1 || has_right;

  acc x[kConvSide][kConvColumns + 2][kVector] = {};  // the last three rows
  ConvPack<scalar_t> grad_y[kConvColumns] = {};      // of the row before the last
  acc g[kConvColumns][kVector] = {};
  acc present[kConvColumns][kVector] = {}, next[kConvColumns][kVector] = {};  // what rows of ∂x are so far
  acc sums[kConvSums][kVector] = {};
#pragma unroll 3
  for (int i = 0; i <= rows; ++i) {
    wait_for_copy_groups<kStages - 2>();
    __syncthreads();  // also: the neighbours' columns of g are there
    fetch(i + kStages - 1);
    if (i >= 3) {
      // The row of g that was computed last time.
      acc around[kConvColumns + 2][kVector], grad_x[kConvColumns][kVector];
      const Channels* const turn = edges + (i - 1) % 2 * kTurn;
      const Channels left = has_left ? turn[kSide - kConvLanes] : Channels{};
      const Channels right = has_right ? turn[kConvLanes] : Channels{};
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        around[0][v] = left.value[v];
        around[kConvColumns + 1][v] = right.value[v];
#pragma unroll
        for (int c = 0; c < kConvColumns; ++c) around[c + 1][v] = g[c][v];
      }
#pragma unroll
      for (int c = 0; c < kConvColumns; ++c) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          grad_x[c][v] = row_of_window<true>(weight, 0, around, c, v, present[c][v]);
          present[c][v] = row_of_window<true>(weight, 1, around, c, v, next[c][v]);
          next[c][v] = row_of_window<true>(weight, 2, around, c, v, acc(0));
        }
      }
      if (i >= 5) {
        if (existed >> (kStages + 2) & 1) write_columns<kAligned>(p, of, done, p.grad_x, grad_x);
        done.advance(p);
      }
    }
    if (i == rows) break;
#pragma unroll
    for (int c = 0; c < kConvColumns + 2; ++c) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        x[0][c][v] = x[1][c][v];
        x[1][c][v] = x[2][c][v];
      }
    }
    ConvPack<scalar_t> packed[kConvColumns + 2];
    read_columns(of, shared.x + i % kStages * shared.x_stage + x_walk_bytes, packed);
#pragma unroll
    for (int c = 0; c < kConvColumns + 2; ++c) unpack<scalar_t>(packed[c], x[2][c]);
    if (i >= 2) {
      if (existed >> kStages & 1) {
        const bool own = i >= 3 && i < rows - 1;
#pragma unroll
        for (int c = 0; c < kConvColumns; ++c) {
          acc upstream[kVector];
          unpack<scalar_t>(grad_y[c], upstream);
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            acc before = bias[0][v];
#pragma unroll
            for (int k = 0; k < kConvSide; ++k) before = row_of_window<false>(weight, k, x[k], c, v, before);
            const acc s = sigmoid(before);
            g[c][v] = upstream[v] * (s * (1 + before * (1 - s)));
          }
        }
        if (own) {
#pragma unroll
          for (int c = 0; c < kConvColumns; ++c) {
            const bool counts = (c > 0 || left_counts) && (c + 1 < kConvColumns || right_counts);
#pragma unroll
            for (int v = 0; v < kVector; ++v) {
              const acc counted = counts ? g[c][v] : acc(0);
#pragma unroll
              for (int k = 0; k < kConvTaps; ++k) sums[k][v] += counted * x[k / kConvSide][c + k % kConvSide][v];
              sums[kConvTaps][v] += counted;
            }
          }
        }
      } else {
        // A row of zeros lies between two maps and would mix them.
#pragma unroll
        for (int c = 0; c < kConvColumns; ++c) {
#pragma unroll
          for (int v = 0; v < kVector; ++v) g[c][v] = 0;
        }
      }
      Channels left, right;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        left.value[v] = g[0][v];
        right.value[v] = g[kConvColumns - 1][v];
      }
      edges[i % 2 * kTurn] = left;
      edges[i % 2 * kTurn + kSide] = right;
    }
    read_columns(of, shared.grad_y + i % kStages * shared.grad_stage + walk_bytes, grad_y);
  }
  write_sums(p, of, sums, shared.sums);
}

template <typename scalar_t, typename Kernel>
void launch_walks(Kernel* kernel, const DepthwiseConvLaunch& p, bool backward) {
  const size_t bytes = ConvMemory<scalar_t>(p.walks, p.places, backward, nullptr).bytes;
  const dim3 grid(static_cast<unsigned>(p.chunks), static_cast<unsigned>(p.parts));
  const dim3 block(static_cast<unsigned>(p.walks * p.places * kConvLanes));
  launch_kernel("depthwise_conv", kernel, {grid, block, bytes, 1, current_stream()}, p);
}

}  // namespace

template <typename scalar_t>
void launch_depthwise_conv(const DepthwiseConvLaunch& p) {
  launch_walks<scalar_t>(
      p.aligned ? depthwise_conv_kernel<scalar_t, true> : depthwise_conv_kernel<scalar_t, false>, p, false);
}

template <typename scalar_t>
void launch_depthwise_conv_backward(const DepthwiseConvLaunch& p) {
  launch_walks<scalar_t>(
      p.aligned ? depthwise_conv_backward_kernel<scalar_t, true> : depthwise_conv_backward_kernel<scalar_t, false>, p,
      true);
  const int64_t channels = p.channels;
  launch_column_sums<acc_t<scalar_t>>(
      "depthwise_conv", {p.partial, p.parts, kConvSums * channels, kConvTaps * channels, p.grad_weight, p.grad_bias});
}

}  // namespace ssm
