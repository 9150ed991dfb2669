// Two linear layers on Hopper's tensor cores: how the weights are packed, and the sizes that follow from it.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

namespace ssm {

// The weights are packed in pieces. Two pieces belong to a chunk of the hidden channels: the rows of the first weight,
// and the columns of the second one. Both have as many numbers, in cores as tensor cores read them (warpgroup.cuh), so
// that a piece is copied in one go. Hidden channels that fill the last chunk are zeros.
struct HopperLayers {
  int channels, hidden, chunk;    // hidden channels of a chunk, a multiple of 16
  const void *weight1, *weight2;  // scalar_t, contiguous [hidden, channels] and [channels, hidden]
  void* packed;                   // scalar_t, contiguous [pieces(), items()]
  int stages;                     // pieces that shared memory holds

  C10_HOST_DEVICE int chunks() const { return (hidden + chunk - 1) / chunk; }
  C10_HOST_DEVICE int pieces() const { return 2 * chunks(); }
  C10_HOST_DEVICE int items() const { return chunk * channels; }
  C10_HOST_DEVICE unsigned bytes() const { return 2u * chunk * channels; }
};

}  // namespace ssm
