// The forward pass: a warp computes a piece of 16 pixels after another. Nothing but y is written.
#pragma once

#include "common/cuda/gelu.cuh"
#include "conv_norm_gelu/cuda/windows.cuh"

namespace ssm {
namespace {

template <typename scalar_t, int kChannels>
__global__ void __launch_bounds__(kStemThreads, kStemMinBlocks) conv_norm_gelu_kernel(ConvNormGeluLaunch p) {
  constexpr int kTiles = kChannels / 8, kPitch = piece_pitch(kChannels);
  extern __shared__ __align__(16) char shared[];
  const StemMemory<scalar_t> memory(false, kChannels, shared);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = lane % 4 * 2;
  scalar_t* own = memory.pieces + warp * kPiece * kPitch;
  const StemWeights<scalar_t, kTiles> weights(p.weight);
  const StemTaps taps;

  copy_parameters(memory, p, kChannels, kGeluUnit);
  StemTile next(p, blockIdx.x);
  copy_image(memory.images, p, next);
  close_copy_group();
  int turn = 0;
  for (int index = blockIdx.x; index < p.tiles; index += gridDim.x, turn ^= 1) {
    const StemTile tile = next;
    if (index + static_cast<int>(gridDim.x) < p.tiles) {
      next = StemTile(p, index + gridDim.x);
      copy_image(memory.images + (turn ^ 1) * kImageItems, p, next);
    }
    close_copy_group();
    wait_for_copy_groups<1>();
    __syncthreads();
    const float* first = first_window(memory.images + turn * kImageItems);
    const int row = tile.row + warp, pieces = tile.pieces(p);
    scalar_t* to = static_cast<scalar_t*>(p.y) +
                   ((int64_t{1} * tile.image * p.out_height + row) * p.out_width + tile.column) * kChannels;
#pragma unroll 1
    for (int piece = 0; piece < pieces && row < p.out_height; ++piece) {
      Factor windows[kSteps];
      taps.load<scalar_t>(windows, first + 2 * kPiece * piece);
      const NormedPiece<kTiles> normed(windows, weights, memory.bias, p.eps);
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        const float2 weight = *reinterpret_cast<const float2*>(memory.norm_weight + 8 * j + pair);
        const float2 bias = *reinterpret_cast<const float2*>(memory.norm_bias + 8 * j + pair);
#pragma unroll
        for (int pixel = 0; pixel < 2; ++pixel) {
          const float* x = normed.x[j].values + 2 * pixel;
          const float2 y = gelu_in_units(fmaf(x[0], weight.x, bias.x), fmaf(x[1], weight.y, bias.y));
          *reinterpret_cast<uint32_t*>(own + (lane / 4 + 8 * pixel) * kPitch + 8 * j + pair) =
              pack<scalar_t>(y.x * (1 / kGeluUnit), y.y * (1 / kGeluUnit));
        }
      }
      __syncwarp();
      const int pixels = min(kPiece, p.out_width - tile.column - kPiece * piece);
#pragma unroll
      for (int i = 0; i < (kPiece * kTiles + 31) / 32; ++i) {
        const int place = lane + 32 * i, pixel = place / kTiles, channel = place % kTiles * 8;
        if (pixel < pixels) {
          *reinterpret_cast<uint4*>(to + (kPiece * piece + pixel) * kChannels + channel) =
              *reinterpret_cast<const uint4*>(own + pixel * kPitch + channel);
        }
      }
      __syncwarp();
    }
    __syncthreads();  // the present tile's pixels may be overwritten
  }
  wait_for_copies();
}

}  // namespace
}  // namespace ssm
