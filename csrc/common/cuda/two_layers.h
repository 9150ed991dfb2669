// Two linear layers whose hidden channels pass by in registers: sizes, and how the weights are packed.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace ssm {

constexpr int kFirstWithFragments = 80;  // the first architecture with fragments.cuh

constexpr int kLayerWarps = 8;
constexpr int kLayerThreads = 32 * kLayerWarps;
constexpr int kWide = 16;         // numbers of a row and of a column that a tensor core takes; divides all channels
constexpr int kHiddenChunk = 32;  // hidden channels that pass by at once
constexpr int kChunkStages = 2;   // chunks in shared memory if it does not hold all: the present and the next one

// Rows of shared memory are a multiple of 16 bytes apart, and an odd one, so that eight of them lie in all banks.
constexpr int kRowPad = 8;
constexpr int kCopied = 8;  // numbers that are copied at once, 16 bytes

// u = x W1ᵀ, y = h W2ᵀ with h of u. The weights are packed chunk by chunk as shared memory holds them, so that a chunk
// is copied in one piece: kHiddenChunk rows of the first weight, then `out` rows of kHiddenChunk columns of the second.
struct TwoLayers {
  int channels, hidden, out;
  const void *weight1, *weight2;  // scalar_t, contiguous [hidden, channels] and [out, hidden]
  void* packed;                   // scalar_t, contiguous [chunks_of_all(), chunk_items(channels, out)]
  int chunks;                     // that shared memory holds: all, or kChunkStages

  C10_HOST_DEVICE int chunks_of_all() const { return hidden / kHiddenChunk; }
};

C10_HOST_DEVICE constexpr int first_items(int channels) {
  return kHiddenChunk * (channels + kRowPad);
}
C10_HOST_DEVICE constexpr int chunk_items(int channels, int out) {
  return first_items(channels) + out * (kHiddenChunk + kRowPad);
}

}  // namespace ssm
