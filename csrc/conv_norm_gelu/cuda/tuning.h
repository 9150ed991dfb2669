// Tile sizes of the stem's first half on the GPU and what follows from them. csrc/README.md says how to try others.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>
#include <cstdint>

#include "common/channels.h"
#include "common/memory.h"

namespace ssm {

// Numbers of channels that kernels are compiled for: those of the models.
constexpr int kStemChannels[] = {24, 32, 40, 48, 64};
constexpr bool conv_norm_gelu_has(int64_t channels) {
  return is_listed(kStemChannels, channels);
}

constexpr int kColours = 3, kStemSide = 3;                   // of an image, and of a window
constexpr int kStemTaps = kColours * kStemSide * kStemSide;  // weights of a channel
constexpr int kStemSums = kStemTaps + 3;                     // gradients of a channel

// A warp has one row of a tile of y, piece by piece. A piece is what a tensor core takes: 16 pixels.
constexpr int kStemWarps = 8, kStemThreads = 32 * kStemWarps;
constexpr int kPiece = 16, kPieces = 4;
constexpr int kStemColumns = kPiece * kPieces;

// The pixels of the images that a tile reads: rows with one pixel to the left of the tile, which ends a margin of 16
// bytes. Rows are an odd multiple of 16 floats apart, so that rows that follow each other lie in different banks.
constexpr int kImageRows = 2 * kStemWarps + 1, kImageMargin = 4;
constexpr int kImagePitch = (kImageMargin + 2 * kStemColumns + 15) / 32 * 32 + 16;
constexpr int kImagePlane = kImageRows * kImagePitch;
constexpr int kImageItems = kColours * kImagePlane;
static_assert(kImagePitch >= kImageMargin + 2 * kStemColumns);

// Blocks that a multiprocessor must have registers for in the forward pass.
constexpr int kStemMinBlocks = 2;

// Groups of tiles at most, of which each has its sums of the gradients: twice the multiprocessors of an H100.
constexpr int64_t kStemGroups = 264;

// Numbers of a half type from one pixel of a piece to the next in shared memory: an odd multiple of 16 bytes, so that
// eight of them lie in all banks.
C10_HOST_DEVICE constexpr int piece_pitch(int channels) {
  return channels % 16 == 0 ? channels + 8 : channels;
}

// Shared memory of a block.
template <typename scalar_t>
struct StemMemory {
  float* images;                          // [2][kImageItems]: of the present tile and of the next one
  float *bias, *norm_weight, *norm_bias;  // [channels]
  // [warps][kPiece][piece_pitch], twice in the backward pass: y on its way out, or its gradient on its way in.
  scalar_t* pieces;
  float* sums;  // [kStemSums · channels]; lies where the pieces were
  size_t bytes;

  C10_HOST_DEVICE StemMemory(bool backward, int channels, char* memory) {
    Carver carver(memory);
    images = carver.take<float>(2 * kImageItems);
    bias = carver.take<float>(channels);
    norm_weight = carver.take<float>(channels);
    norm_bias = carver.take<float>(channels);
    pieces = carver.take<scalar_t>(static_cast<size_t>(backward ? 2 : 1) * kStemWarps * kPiece * piece_pitch(channels));
    sums = reinterpret_cast<float*>(pieces);
    bytes = carver.bytes();
  }
};

}  // namespace ssm
