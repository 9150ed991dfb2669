// The depthwise convolution with SiLU, forward and backward, each in one pass over memory.
#pragma once

#include "common/cuda/column_sums.cuh"
#include "common/cuda/launch.h"
#include "common/cuda/math.cuh"
#include "depthwise_conv/cuda/walk.cuh"

namespace ssm {
namespace {

// Σ_j weight[i, j] x[c + j] for the row i of the window; kMirrored takes the columns the other way around.
template <bool kMirrored, typename acc, int kVector>
__device__ __forceinline__ acc row_of_window(
    const acc (&weight)[kConvTaps][kVector], int i, const acc (&x)[kConvColumns + 2][kVector], int c, int v, acc sum) {
#pragma unroll
  for (int j = 0; j < kConvSide; ++j) {
    sum += weight[i * kConvSide + j][v] * x[c + (kMirrored ? kConvSide - 1 - j : j)][v];
  }
  return sum;
}

// Adds a row to the three rows of a convolution that it has a part in. `done`, the row above, is complete then.
// `present` and `next` are what the row itself and the one below are so far.
template <bool kMirrored, typename acc, int kVector>
__device__ __forceinline__ void add_row(const acc (&weight)[kConvTaps][kVector],
    const acc (&x)[kConvColumns + 2][kVector], const acc (&start)[kVector], acc (&done)[kConvColumns][kVector],
    acc (&present)[kConvColumns][kVector], acc (&next)[kConvColumns][kVector]) {
  constexpr int kAbove = kMirrored ? 0 : kConvSide - 1, kBelow = kConvSide - 1 - kAbove;
#pragma unroll
  for (int c = 0; c < kConvColumns; ++c) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      done[c][v] = row_of_window<kMirrored>(weight, kAbove, x, c, v, present[c][v]);
      present[c][v] = row_of_window<kMirrored>(weight, 1, x, c, v, next[c][v]);
      next[c][v] = row_of_window<kMirrored>(weight, kBelow, x, c, v, start[v]);
    }
  }
}

// Each row of x is read once, and added to the rows of the result that it has a part in.
template <typename scalar_t, bool kAligned>
__global__ void __launch_bounds__(kConvThreads, kConvMinBlocks) depthwise_conv_kernel(DepthwiseConvLaunch p) {
  using acc = acc_t<scalar_t>;
  constexpr int kVector = kConvVector<scalar_t>, kMaps = kConvForwardMaps, kStages = kConvStages<scalar_t, kMaps>;
  extern __shared__ __align__(16) char memory[];
  const ConvMemory<scalar_t, kMaps> shared(kMaps, p.walks, p.places, memory);
  const ConvPlace<scalar_t> of(p);
  const void* const maps[kMaps] = {p.x};

  // The rows of x are those of the walk, one before and one after.
  const int rows = p.length + 2;
  const ConvCopies<scalar_t, kAligned> copies(of);
  ConvRow<scalar_t> ahead(p, of.start - 1, copies.column, copies.channel);
  ConvRow<scalar_t> done(p, of.start, of.place * kConvColumns, of.channel);
  unsigned own = own_columns(p, of, done);
  char* const of_walk = shared.rows + of.walk * shared.columns * kConvTokenBytes<scalar_t>;
  const char* const mine = of_walk + of.in_row();
  const auto fetch = [&](int number) {
    if (number < rows) {
      copies.start(p, shared, ahead, ahead.exists(p), maps, of_walk + number % kStages * shared.stage);
      ahead.advance(p);
    }
    close_copy_group();
  };
  for (int s = 0; s < kStages - 1; ++s) fetch(s);

  acc weight[kConvTaps][kVector], bias[1][kVector];
  read_parameter<kConvTaps>(p, of, p.weight, weight);
  read_parameter<1>(p, of, p.bias, bias);
  acc present[kConvColumns][kVector] = {}, next[kConvColumns][kVector] = {};
#pragma unroll 1
  for (int i = 0; i < rows; ++i) {
    wait_for_copy_groups<kStages - 2>();
    __syncthreads();  // the row is there, and all have read the one whose place the next copy takes
    fetch(i + kStages - 1);
    ConvPack<scalar_t> packed[kConvColumns + 2];
    acc x[kConvColumns + 2][kVector], y[kConvColumns][kVector];
    read_columns<scalar_t>(mine + i % kStages * shared.stage, packed);
#pragma unroll
    for (int c = 0; c < kConvColumns + 2; ++c) unpack(packed[c], x[c]);
    add_row<false>(weight, x, bias[0], y, present, next);
    if (i < 2) continue;
    if (done.exists(p)) {
#pragma unroll
      for (int c = 0; c < kConvColumns; ++c) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) y[c][v] *= logistic<scalar_t>(y[c][v]);
      }
      write_columns<kAligned>(p, of, done, own, p.y, y);
    }
    done.advance(p);
    if (p.tiles > 1 && done.row == 0) own = own_columns(p, of, done);
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

// The gradient g of the convolution's result p in a row: ∂y · SiLU'(p), with p computed again from three rows of x.
template <typename scalar_t, typename acc, int kVector>
__device__ __forceinline__ void gradient_before_silu(const acc (&weight)[kConvTaps][kVector],
    const acc (&bias)[kVector], const acc (&x)[kConvSide][kConvColumns + 2][kVector],
    const ConvPack<scalar_t> (&grad_y)[kConvColumns], acc (&g)[kConvColumns][kVector]) {
#pragma unroll
  for (int c = 0; c < kConvColumns; ++c) {
    acc upstream[kVector];
    unpack(grad_y[c], upstream);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      acc before = bias[v];
#pragma unroll
      for (int i = 0; i < kConvSide; ++i) before = row_of_window<false>(weight, i, x[i], c, v, before);
      const acc s = logistic<scalar_t>(before);
      g[c][v] = upstream[v] * (s * (1 + before * (1 - s)));
    }
  }
}

// Adds what a row of g gives to the sums of the weights and the bias. The outermost columns may be another thread's.
template <typename acc, int kVector>
__device__ __forceinline__ void add_to_sums(const acc (&x)[kConvSide][kConvColumns + 2][kVector],
    const acc (&g)[kConvColumns][kVector], bool first_counts, bool last_counts, acc (&sums)[kConvSums][kVector]) {
#pragma unroll
  for (int c = 0; c < kConvColumns; ++c) {
    const bool counts = (c > 0 || first_counts) && (c + 1 < kConvColumns || last_counts);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const acc counted = counts ? g[c][v] : acc(0);
#pragma unroll
      for (int k = 0; k < kConvTaps; ++k) sums[k][v] += counted * x[k / kConvSide][c + k % kConvSide][v];
      sums[kConvTaps][v] += counted;
    }
  }
}

// The outermost columns of a row of g, which the threads of a row exchange through shared memory.
template <typename acc, int kVector>
struct ConvEdges {
  using Channels = Pack<acc, kVector>;
  static constexpr int kSide = kConvThreads, kTurn = 2 * kSide;

  Channels* mine;
  bool has_left, has_right;  // whether there are such neighbours; else there are zeros

  __device__ __forceinline__ void write(int turn, const acc (&g)[kConvColumns][kVector]) const {
    Channels first, last;
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      first.value[v] = g[0][v];
      last.value[v] = g[kConvColumns - 1][v];
    }
    mine[turn % 2 * kTurn] = first;
    mine[turn % 2 * kTurn + kSide] = last;
  }

  // The row with a column more at each side.
  __device__ __forceinline__ void read(
      int turn, const acc (&g)[kConvColumns][kVector], acc (&around)[kConvColumns + 2][kVector]) const {
    const Channels* const written = mine + turn % 2 * kTurn;
    const Channels left = has_left ? written[kSide - kConvLanes] : Channels{};
    const Channels right = has_right ? written[kConvLanes] : Channels{};
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      around[0][v] = left.value[v];
      around[kConvColumns + 1][v] = right.value[v];
#pragma unroll
      for (int c = 0; c < kConvColumns; ++c) around[c + 1][v] = g[c][v];
    }
  }
};

// Row by row: g from three rows of x and a row of ∂y; ∂weight and ∂bias as sums over g and these rows; and, one row
// later, when the neighbours' columns are there, the rows of ∂x that g has a part in. With kMost maps, ∂y is the sum of
// two or three.
template <typename scalar_t, bool kAligned, bool kMost>
__global__ void __launch_bounds__(kConvThreads, kConvBackwardMinBlocks)
    depthwise_conv_backward_kernel(DepthwiseConvLaunch p) {
  using acc = acc_t<scalar_t>;
  constexpr int kVector = kConvVector<scalar_t>, kMaps = kMost ? kConvMostMaps : kConvBackwardMaps;
  constexpr int kStages = kConvStages<scalar_t, kMaps>;
  extern __shared__ __align__(16) char memory[];
  const ConvMemory<scalar_t, kMaps> shared(maps_of(p), p.walks, p.places, memory);
  const ConvPlace<scalar_t> of(p);
  const void* maps[kMaps] = {p.x, p.grad_y};
  if constexpr (kMost) {
#pragma unroll
    for (int m = 0; m < kConvMoreGradients; ++m) maps[kConvBackwardMaps + m] = p.more[m];
  }

  // g is needed for the rows of the walk, one before and one after; x for one more at each end.
  const int rows = p.length + 4;
  const ConvCopies<scalar_t, kAligned> copies(of);
  ConvRow<scalar_t> ahead(p, of.start - 2, copies.column, copies.channel);
  ConvRow<scalar_t> done(p, of.start, of.place * kConvColumns, of.channel);
  unsigned own = own_columns(p, of, done);
  unsigned existed = 0;  // a bit for each row that was fetched, the last one lowest: whether it is one of a map
  char* const of_walk = shared.rows + of.walk * shared.columns * kConvTokenBytes<scalar_t>;
  const char* const mine = of_walk + of.in_row();
  const auto fetch = [&](int number) {
    existed *= 2;
    if (number < rows) {
      const bool exists = ahead.exists(p);
      existed |= exists ? 1 : 0;
      copies.start(p, shared, ahead, exists, maps, of_walk + number % kStages * shared.stage);
      ahead.advance(p);
    }
    close_copy_group();
  };
  for (int s = 0; s < kStages - 1; ++s) fetch(s);

  acc weight[kConvTaps][kVector], bias[1][kVector];
  read_parameter<kConvTaps>(p, of, p.weight, weight);
  read_parameter<1>(p, of, p.bias, bias);
  const ConvEdges<acc, kVector> edges{
      reinterpret_cast<Pack<acc, kVector>*>(shared.edges) + threadIdx.x, of.place > 0, of.place + 1 < p.places};
  // Of a map in tiles, the outermost columns of g count in the neighbouring tile.
  const bool first_counts = p.tiles == 1 || edges.has_left, last_counts = p.tiles == 1 || edges.has_right;

  acc x[kConvSide][kConvColumns + 2][kVector] = {};  // the last three rows
  ConvPack<scalar_t> grad_y[kConvColumns] = {};      // the row before the last
  acc g[kConvColumns][kVector] = {}, present[kConvColumns][kVector] = {}, next[kConvColumns][kVector] = {};
  acc sums[kConvSums][kVector] = {};
#pragma unroll 1
  for (int i = 0; i <= rows; ++i) {
    wait_for_copy_groups<kStages - 2>();
    __syncthreads();  // the row is there, all have read the one whose place the next copy takes, and g has its edges
    fetch(i + kStages - 1);
    if (i >= 3) {
      acc around[kConvColumns + 2][kVector], grad_x[kConvColumns][kVector];
      const acc zero[kVector] = {};
      edges.read(i - 1, g, around);
      add_row<true>(weight, around, zero, grad_x, present, next);
      if (i >= 5) {
        if (existed >> (kStages + 2) & 1) write_columns<kAligned>(p, of, done, own, p.grad_x, grad_x);
        done.advance(p);
        if (p.tiles > 1 && done.row == 0) own = own_columns(p, of, done);
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
    const char* const row = mine + i % kStages * shared.stage;
    ConvPack<scalar_t> packed[kConvColumns + 2];
    read_columns<scalar_t>(row, packed);
#pragma unroll
    for (int c = 0; c < kConvColumns + 2; ++c) unpack(packed[c], x[2][c]);
    if (i >= 2) {
      if (existed >> kStages & 1) {
        gradient_before_silu<scalar_t>(weight, bias[0], x, grad_y, g);
        // The rows before and after the walk are another walk's.
        if (i >= 3 && i < rows - 1) add_to_sums(x, g, first_counts, last_counts, sums);
      } else {
        // A row of zeros lies between two maps and would mix them.
#pragma unroll
        for (int c = 0; c < kConvColumns; ++c) {
#pragma unroll
          for (int v = 0; v < kVector; ++v) g[c][v] = 0;
        }
      }
      edges.write(i, g);
    }
    const char* const gradients = row + shared.map + kConvTokenBytes<scalar_t>;
    if constexpr (kMost) {
      acc sum[kConvColumns][kVector] = {};
      add_columns<scalar_t>(gradients, sum);
      add_columns<scalar_t>(gradients + shared.map, sum);
      if (p.more[1] != nullptr) add_columns<scalar_t>(gradients + 2 * shared.map, sum);
#pragma unroll
      for (int c = 0; c < kConvColumns; ++c) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) grad_y[c].value[v] = static_cast<scalar_t>(sum[c][v]);
      }
    } else {
      read_columns<scalar_t>(gradients, grad_y);
    }
  }
  write_sums(p, of, sums, shared.sums);
}

template <typename scalar_t, int kMaps, typename Kernel>
void launch_walks(Kernel* kernel, const DepthwiseConvLaunch& p, int maps = kMaps) {
  const size_t bytes = ConvMemory<scalar_t, kMaps>(maps, p.walks, p.places, nullptr).bytes;
  const dim3 grid(static_cast<unsigned>(p.chunks), static_cast<unsigned>(p.parts));
  const dim3 block(static_cast<unsigned>(p.walks * p.places * kConvLanes));
  launch_kernel("depthwise_conv", kernel, {grid, block, bytes, 1, current_stream()}, p);
}

}  // namespace

template <typename scalar_t>
void launch_depthwise_conv(const DepthwiseConvLaunch& p) {
  launch_walks<scalar_t, kConvForwardMaps>(
      p.aligned ? depthwise_conv_kernel<scalar_t, true> : depthwise_conv_kernel<scalar_t, false>, p);
}

template <typename scalar_t>
void launch_depthwise_conv_backward(const DepthwiseConvLaunch& p) {
  if (p.more[0] == nullptr) {
    launch_walks<scalar_t, kConvBackwardMaps>(p.aligned ? depthwise_conv_backward_kernel<scalar_t, true, false>
                                                        : depthwise_conv_backward_kernel<scalar_t, false, false>,
        p);
  } else {
    launch_walks<scalar_t, kConvMostMaps>(p.aligned ? depthwise_conv_backward_kernel<scalar_t, true, true>
                                                    : depthwise_conv_backward_kernel<scalar_t, false, true>,
        p, maps_of(p));
  }
  const int64_t channels = p.channels;
  launch_column_sums<acc_t<scalar_t>, DepthwiseConvParams>(
      "depthwise_conv", {p.partial, p.parts, kConvSums * channels, {kConvTaps * channels, kConvSums * channels},
                            {p.grad_weight, p.grad_bias}});
}

}  // namespace ssm
