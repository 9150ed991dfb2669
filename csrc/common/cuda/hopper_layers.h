// Linear layers on Hopper's tensor cores: how the weights are packed, and the sizes that follow from it.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace ssm {

constexpr int kHopper = 90;          // the architecture whose instructions the kernels take
constexpr int kHopperRows = 64;      // tokens of a warpgroup at once
constexpr int kHopperStages = 3;     // pieces of the weights in shared memory at least, if it does not hold all
constexpr int kHopperAligned = 128;  // bytes: where the pieces begin

// Two layers, u = x W1ᵀ and y = h W2ᵀ with h of u, and a third one, h2 W3ᵀ with h2 of y, if it has rows. The weights
// are packed in pieces of as many numbers, in cores as tensor cores read them (warpgroup.cuh), so that a piece is
// copied in one go. For each chunk of the hidden channels come the rows of the first weight, then the columns of the
// second one, and after all chunks the third weight. A piece is some of these columns, all rows of them. What fills the
// last chunk or the last piece is zeros.
struct HopperLayers {
  int channels, hidden, out, last;  // `last` rows of the third weight
  int chunk;                        // hidden channels of a chunk, a multiple of 16
  int items, pieces;                // numbers of a piece; all pieces
  const void *weight1, *weight2;    // scalar_t, contiguous [hidden, channels] and [out, hidden]
  const void* weight3;              // scalar_t, contiguous [last, out]
  void* packed = nullptr;           // scalar_t, contiguous [pieces, items]
  int stages = 0;                   // pieces that shared memory holds

  HopperLayers() = default;
  // `split` is how many pieces the second weight's columns of a chunk make.
  HopperLayers(int channels, int hidden, int out, int chunk, int split, const void* weight1, const void* weight2,
      const void* weight3 = nullptr, int last = 0)
      : channels(channels),
        hidden(hidden),
        out(out),
        last(last),
        chunk(chunk),
        items(chunk * out / split),
        pieces(chunks() * of_chunk() + (last * out + items - 1) / items),
        weight1(weight1),
        weight2(weight2),
        weight3(weight3) {}

  C10_HOST_DEVICE int chunks() const { return (hidden + chunk - 1) / chunk; }
  C10_HOST_DEVICE int of_first() const { return chunk * channels / items; }             // pieces of a chunk
  C10_HOST_DEVICE int of_chunk() const { return chunk * (channels + out) / items; }     // of both weights
  C10_HOST_DEVICE unsigned bytes() const { return 2u * static_cast<unsigned>(items); }  // of a piece
};

// Lets a block's shared memory of `most` bytes hold as many pieces as it can beside what else `Memory` has, or none if
// these are too few.
template <typename Memory>
void hold_pieces(HopperLayers& layers, size_t most) {
  const auto bytes = [&](int stages) {
    layers.stages = stages;
    return Memory(layers, nullptr).bytes;
  };
  const size_t fixed = bytes(0), one = bytes(1) - fixed;
  const int held = fixed < most ? static_cast<int>(std::min<size_t>((most - fixed) / one, layers.pieces)) : 0;
  layers.stages = held >= std::min(layers.pieces, kHopperStages) ? held : 0;
}

}  // namespace ssm
