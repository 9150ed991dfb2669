// The backward pass: the convolution and its norm are computed again, so that the forward pass keeps nothing. The
// images have no gradient here.
#pragma once

#include "common/cuda/gelu.cuh"
#include "conv_norm_gelu/cuda/windows.cuh"

namespace ssm {
namespace {

// Starts to copy the gradient of a piece of y, with zeros for pixels that do not exist.
template <typename scalar_t, int kChannels>
__device__ __forceinline__ void copy_gradient(
    scalar_t* to, const ConvNormGeluLaunch& p, const StemTile& tile, int piece) {
  constexpr int kTiles = kChannels / 8, kPitch = piece_pitch(kChannels);
  const int lane = threadIdx.x % 32, row = tile.row + static_cast<int>(threadIdx.x) / 32;
  const int column = tile.column + kPiece * piece, pixels = row < p.out_height ? p.out_width - column : 0;
  const scalar_t* from =
      static_cast<const scalar_t*>(p.grad_y) +
      (pixels > 0 ? ((int64_t{1} * tile.image * p.out_height + row) * p.out_width + column) * kChannels : 0);
#pragma unroll
  for (int i = 0; i < (kPiece * kTiles + 31) / 32; ++i) {
    const int place = lane + 32 * i, pixel = place / kTiles, channel = place % kTiles * 8;
    const bool exists = pixel < pixels;
    copy_async_or_zero<16>(
        to + pixel * kPitch + channel, from + (exists ? pixel * kChannels + channel : 0), exists, pixel < kPiece);
  }
}

// Adds up numbers of the eight lanes that hold the same channels.
__device__ __forceinline__ float sum_of_column(float value) {
#pragma unroll
  for (int distance = 4; distance < 32; distance *= 2) value += __shfl_xor_sync(~0u, value, distance);
  return value;
}

// A lane's sums over pixels: products of taps and channels, and the gradients of its channels' norm.
template <int kTiles>
struct StemGradients {
  Result taps[kSteps][kTiles] = {};
  float2 norm_weight[kTiles] = {}, norm_bias[kTiles] = {};

  // Adds the sums of all warps, one warp after another, and writes them.
  __device__ void write(float* to, float* sums) {
    constexpr int kChannels = 8 * kTiles;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = lane % 4 * 2;
    __syncthreads();  // the pieces lie where the sums do
    for (int i = threadIdx.x; i < kStemSums * kChannels; i += kStemThreads) sums[i] = 0;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      norm_weight[j] = {sum_of_column(norm_weight[j].x), sum_of_column(norm_weight[j].y)};
      norm_bias[j] = {sum_of_column(norm_bias[j].x), sum_of_column(norm_bias[j].y)};
    }
    for (int turn = 0; turn < kStemWarps; ++turn) {
      __syncthreads();
      if (turn != warp) continue;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const int channel = 8 * j + pair;
#pragma unroll
        for (int i = 0; i < 4 * kSteps; ++i) {
          const int tap = lane / 4 + 8 * (i / 2), at = channel + i % 2;
          const float value = taps[i / 4][j].values[i % 4];
          if (tap < kStemTaps) sums[at * kStemTaps + tap] += value;
          if (tap == kOneTap) sums[kStemTaps * kChannels + at] += value;
        }
        if (lane < 4) {
          float* of_norm = sums + (kStemTaps + 1) * kChannels + channel;
          of_norm[0] += norm_weight[j].x, of_norm[1] += norm_weight[j].y;
          of_norm[kChannels] += norm_bias[j].x, of_norm[kChannels + 1] += norm_bias[j].y;
        }
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kStemSums * kChannels; i += kStemThreads) to[i] = sums[i];
    __syncthreads();
  }
};

template <typename scalar_t, int kChannels>
__global__ void __launch_bounds__(kStemThreads, 1) conv_norm_gelu_backward_kernel(ConvNormGeluLaunch p) {
  constexpr int kTiles = kChannels / 8, kPitch = piece_pitch(kChannels);
  constexpr float kShare = 1.f / kChannels;
  extern __shared__ __align__(16) char shared[];
  const StemMemory<scalar_t> memory(true, kChannels, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = lane % 4 * 2;
  scalar_t* own = memory.pieces + warp * 2 * kPiece * kPitch;
  const StemWeights<scalar_t, kTiles> weights(p.weight);
  const StemTaps taps;
  copy_parameters(memory, p, kChannels, 1);

  for (int group = blockIdx.x; group < p.groups; group += gridDim.x) {
    const int begin = group * p.of_group, end = min(begin + p.of_group, p.tiles);
    StemGradients<kTiles> gradients;
    int turn = 0, buffer = 0;  // of the tiles, and of the pieces
    StemTile next(p, begin);
    copy_image(memory.images, p, next);
    copy_gradient<scalar_t, kChannels>(own, p, next, 0);
    close_copy_group();
    for (int index = begin; index < end; ++index, turn ^= 1) {
      const StemTile tile = next;
      if (index + 1 < end) next = StemTile(p, index + 1);
      const float* first = first_window(memory.images + turn * kImageItems);
      const int pieces = tile.pieces(p);
#pragma unroll 1
      for (int piece = 0; piece < pieces; ++piece, buffer ^= 1) {
        if (piece == 0 && index + 1 < end) copy_image(memory.images + (turn ^ 1) * kImageItems, p, next);
        scalar_t* other = own + (buffer ^ 1) * kPiece * kPitch;
        if (piece + 1 < pieces) {
          copy_gradient<scalar_t, kChannels>(other, p, tile, piece + 1);
        } else if (index + 1 < end) {
          copy_gradient<scalar_t, kChannels>(other, p, next, 0);
        }
        close_copy_group();
        wait_for_copy_groups<1>();
        if (piece == 0) {
          __syncthreads();
        } else {
          __syncwarp();
        }
        Factor windows[kSteps];
        taps.load<scalar_t>(windows, first + 2 * kPiece * piece);
        const NormedPiece<kTiles> normed(windows, weights, memory.bias, p.eps);
        const scalar_t* given = own + buffer * kPiece * kPitch + lane / 4 * kPitch + pair;
        Result slopes[kTiles];  // the gradients of x
        float means[2] = {}, products[2] = {};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
          const float2 weight = *reinterpret_cast<const float2*>(memory.norm_weight + 8 * j + pair);
          const float2 bias = *reinterpret_cast<const float2*>(memory.norm_bias + 8 * j + pair);
#pragma unroll
          for (int pixel = 0; pixel < 2; ++pixel) {
            const float2 grad_y =
                unpack<scalar_t>(*reinterpret_cast<const uint32_t*>(given + 8 * pixel * kPitch + 8 * j));
            const float *x = normed.x[j].values + 2 * pixel, u = fmaf(x[0], weight.x, bias.x),
                        v = fmaf(x[1], weight.y, bias.y);
            const float grad_u = grad_y.x * gelu_slope(u, normal_tail(u));
            const float grad_v = grad_y.y * gelu_slope(v, normal_tail(v));
            gradients.norm_weight[j].x = fmaf(grad_u, x[0], gradients.norm_weight[j].x);
            gradients.norm_weight[j].y = fmaf(grad_v, x[1], gradients.norm_weight[j].y);
            gradients.norm_bias[j].x += grad_u;
            gradients.norm_bias[j].y += grad_v;
            float* slope = slopes[j].values + 2 * pixel;
            slope[0] = grad_u * weight.x, slope[1] = grad_v * weight.y;
            means[pixel] += slope[0] + slope[1];
            products[pixel] = fmaf(slope[0], x[0], fmaf(slope[1], x[1], products[pixel]));
          }
        }
        __syncwarp();  // the gradient may be overwritten
#pragma unroll
        for (int pixel = 0; pixel < 2; ++pixel) {
          means[pixel] = sum_of_pixel(means[pixel]) * kShare;
          products[pixel] = sum_of_pixel(products[pixel]) * kShare;
        }
        Factor across[kSteps];  // the windows, a tap in each row
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const uint32_t (&pairs)[4] = windows[step].pairs;
          across[step] = {{transposed(pairs[0]), transposed(pairs[2]), transposed(pairs[1]), transposed(pairs[3])}};
        }
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
          uint32_t right[2];
#pragma unroll
          for (int pixel = 0; pixel < 2; ++pixel) {
            const float *x = normed.x[j].values + 2 * pixel, *slope = slopes[j].values + 2 * pixel;
            const float factor = normed.scale[pixel];
            right[pixel] = transposed(pack<scalar_t>(factor * (slope[0] - fmaf(x[0], products[pixel], means[pixel])),
                factor * (slope[1] - fmaf(x[1], products[pixel], means[pixel]))));
          }
#pragma unroll
          for (int step = 0; step < kSteps; ++step) {
            add_product<scalar_t>(gradients.taps[step][j], across[step], right[0], right[1]);
          }
        }
      }
      __syncthreads();  // the present tile's pixels may be overwritten
    }
    wait_for_copies();
    gradients.write(p.partial + int64_t{1} * group * kStemSums * kChannels, memory.sums);
  }
}

}  // namespace
}  // namespace ssm
