// What both passes share: how a tile of the images comes to shared memory, and the convolution and norm of a piece.
#pragma once

#include "common/cuda/async_copy.cuh"
#include "common/cuda/fragments.cuh"
#include "conv_norm_gelu/cuda/launch.h"
#include "conv_norm_gelu/cuda/tuning.h"

namespace ssm {
namespace {

constexpr int kSteps = 2;           // products of 16 numbers of a window: its 27 and five more
constexpr int kOneTap = kStemTaps;  // of these five, the number that is 1: its product sums up the pixels
static_assert(kStemTaps < 16 * kSteps);

// A tile of y: its image, and its first pixel.
struct StemTile {
  int image, row, column;

  // Tiles below each other follow each other; those of the right edge, which are narrower, come last.
  __device__ StemTile(const ConvNormGeluLaunch& p, int index) {
    const int above = p.batch * p.tiles_down, rest = index % above;
    image = rest / p.tiles_down;
    row = rest % p.tiles_down * kStemWarps;
    column = index / above * kStemColumns;
  }
  __device__ int pieces(const ConvNormGeluLaunch& p) const {
    return min(kPieces, (p.out_width - column + kPiece - 1) / kPiece);
  }
};

// Where the lane's first window of a piece begins in shared memory.
__device__ __forceinline__ const float* first_window(const float* image) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  return image + 2 * warp * kImagePitch + kImageMargin - 1 + 2 * (lane / 4);
}

// Starts to copy the pixels of a tile's windows, with zeros around the image.
__device__ __forceinline__ void copy_image(float* to, const ConvNormGeluLaunch& p, const StemTile& tile) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = 2 * tile.column;
  const int64_t plane = int64_t{1} * p.height * p.width;
  for (int row = warp; row < kImageRows; row += kStemWarps) {
    const int y = 2 * tile.row - 1 + row;
    const bool has_row = y >= 0 && y < p.height;
    const float* from = p.images + tile.image * kColours * plane + int64_t{1} * (has_row ? y : 0) * p.width;
    float* target = to + row * kImagePitch + kImageMargin;
    if (p.aligned) {
      const int x = first + 4 * lane;
      const bool exists = has_row && x < p.width, has_left = has_row && first > 0;
#pragma unroll
      for (int colour = 0; colour < kColours; ++colour, from += plane, target += kImagePlane) {
        copy_async_or_zero<16>(target + 4 * lane, from + (exists ? x : 0), exists);
        copy_async_or_zero<4>(target - 1, from + (has_left ? first - 1 : 0), has_left, lane == 0);
      }
    } else {
#pragma unroll 1
      for (int colour = 0; colour < kColours; ++colour, from += plane, target += kImagePlane) {
#pragma unroll 1
        for (int column = lane - 1; column < 2 * kStemColumns; column += 32) {
          const int x = first + column;
          const bool exists = has_row && x >= 0 && x < p.width;
          copy_async_or_zero<4>(target + column, from + (exists ? x : 0), exists);
        }
      }
    }
  }
}

// The weights as right factors: a lane's pairs of step s and channels 8 j to 8 j + 7.
template <typename scalar_t, int kTiles>
struct StemWeights {
  uint32_t pairs[kSteps][kTiles][2];

  __device__ explicit StemWeights(const void* weight) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const scalar_t* row = static_cast<const scalar_t*>(weight) + (8 * j + lane / 4) * kStemTaps;
#pragma unroll
      for (int part = 0; part < 2 * kSteps; ++part) {
        const int tap = 8 * part + lane % 4 * 2;
        const float first = tap < kStemTaps ? static_cast<float>(row[tap]) : 0.f;
        const float second = tap + 1 < kStemTaps ? static_cast<float>(row[tap + 1]) : 0.f;
        pairs[part / 2][j][part % 2] = pack<scalar_t>(first, second);
      }
    }
  }
};

// Where a lane finds its numbers of the windows: offsets from the first pixel of a window.
struct StemTaps {
  int offsets[2 * kSteps][2];
  bool one;  // whether this lane has kOneTap

  __device__ StemTaps() {
    const int pair = threadIdx.x % 4 * 2;
#pragma unroll
    for (int part = 0; part < 2 * kSteps; ++part) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int tap = 8 * part + pair + i, place = tap % (kStemSide * kStemSide);
        offsets[part][i] = tap < kStemTaps ? tap / (kStemSide * kStemSide) * kImagePlane +
                                                 place / kStemSide * kImagePitch + place % kStemSide
                                           : -1;
      }
    }
    one = offsets[2 * kSteps - 1][1] < 0 && offsets[2 * kSteps - 1][0] >= 0;
  }

  // The windows of 16 pixels as left factors. `first` is the first pixel of the window of the lane's first pixel.
  template <typename scalar_t>
  __device__ __forceinline__ void load(Factor (&windows)[kSteps], const float* first) const {
#pragma unroll
    for (int part = 0; part < 2 * kSteps; ++part) {
#pragma unroll
      for (int below = 0; below < 2; ++below) {
        const float* window = first + below * kPiece;
        const float a = offsets[part][0] >= 0 ? window[offsets[part][0]] : 0.f;
        const float b = offsets[part][1] >= 0 ? window[offsets[part][1]] : part == 2 * kSteps - 1 && one ? 1.f : 0.f;
        windows[part / 2].pairs[part % 2 * 2 + below] = pack<scalar_t>(a, b);
      }
    }
  }
};

// Adds up numbers of the four lanes that hold a pixel.
__device__ __forceinline__ float sum_of_pixel(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}

// The normed convolution of a piece. A lane has two pixels, eight apart, and of each the channels 8 j + 2 c and the
// next.
template <int kTiles>
struct NormedPiece {
  Result x[kTiles];
  float scale[2];  // by which each pixel's differences from their mean were multiplied

  template <typename scalar_t>
  __device__ NormedPiece(
      const Factor (&windows)[kSteps], const StemWeights<scalar_t, kTiles>& weights, const float* bias, float eps) {
    const int pair = threadIdx.x % 4 * 2;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[j].values[i] = bias[8 * j + pair + i % 2];
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        add_product<scalar_t>(x[j], windows[step], weights.pairs[step][j][0], weights.pairs[step][j][1]);
      }
    }
    constexpr float kShare = 1.f / (8 * kTiles);
#pragma unroll
    for (int pixel = 0; pixel < 2; ++pixel) {
      float sum = 0, squares = 0;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) sum += x[j].values[2 * pixel] + x[j].values[2 * pixel + 1];
      const float mean = sum_of_pixel(sum) * kShare;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
#pragma unroll
        for (int i = 2 * pixel; i < 2 * pixel + 2; ++i) {
          x[j].values[i] -= mean;
          squares = fmaf(x[j].values[i], x[j].values[i], squares);
        }
      }
      scale[pixel] = rsqrtf(fmaf(sum_of_pixel(squares), kShare, eps));
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        x[j].values[2 * pixel] *= scale[pixel];
        x[j].values[2 * pixel + 1] *= scale[pixel];
      }
    }
  }
};

// The parameters of the norm and the bias come to shared memory, times a unit.
template <typename Memory>
__device__ __forceinline__ void copy_parameters(
    const Memory& memory, const ConvNormGeluLaunch& p, int channels, float unit) {
  for (int i = threadIdx.x; i < channels; i += kStemThreads) {
    memory.bias[i] = p.bias[i];
    memory.norm_weight[i] = p.norm_weight[i] * unit;
    memory.norm_bias[i] = p.norm_bias[i] * unit;
  }
}

}  // namespace
}  // namespace ssm
