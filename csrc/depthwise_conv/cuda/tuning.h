// Tile sizes of the depthwise convolution on the GPU and what follows from them. csrc/README.md says how to try others.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>
#include <cstdint>

#include "common/memory.h"
#include "common/scalar.h"
#include "depthwise_conv/params.h"

namespace ssm {

// Threads side by side have neighbouring channels of the same columns. A thread has a few neighbouring columns: more
// would need more registers, fewer would read more columns beside its own. 7 divides the widths of the models' maps.
constexpr int kConvLanes = 16;
constexpr int kConvColumns = 7;
constexpr int kConvPlaces = 8;  // groups of columns of a block at most
constexpr int kConvThreads = kConvLanes * kConvPlaces;
constexpr int kConvWidth = kConvColumns * kConvPlaces;  // columns of a block at most

// Blocks that a multiprocessor must have registers for. A launch has as many as the GPU has room for at once, since
// every block has the same work.
constexpr int kConvMinBlocks = 5, kConvBackwardMinBlocks = 3;

// Rows of a walk at least, so that the rows that two walks share are few.
constexpr int64_t kConvLeastRows = 4;

// Neighbouring channels of a thread, and the channels of a block: 64 or 128 bytes of a token.
template <typename scalar_t>
constexpr int kConvVector = sizeof(scalar_t) == 8 ? 1 : 2;
template <typename scalar_t>
constexpr int kConvChannels = kConvLanes * kConvVector<scalar_t>;

// Maps that the kernels read: x; with the gradient of y; with up to kConvMoreGradients more.
constexpr int kConvForwardMaps = 1, kConvBackwardMaps = 2, kConvMostMaps = kConvBackwardMaps + kConvMoreGradients;

// Rows that the shared memory holds: the present one, and those on their way. Many maps have one row less, with which
// GPUs that have 100 KiB of shared memory have room for two blocks.
template <typename scalar_t, int kMaps>
constexpr int kConvStages = sizeof(scalar_t) != 2        ? 2
                            : kMaps <= kConvBackwardMaps ? 4
                                                         : 3;

// Bytes from one token to the next in shared memory. The two halves of a warp are seven tokens apart, so that they read
// from different banks.
template <typename scalar_t>
constexpr int kConvTokenBytes = kConvChannels<scalar_t> * sizeof(scalar_t);

// Sums over the tokens that a thread keeps for each of its channels: those of the weights, then that of the bias.
constexpr int kConvSums = kConvTaps + 1;

// Shared memory of a block whose `walks` each have `places` groups of columns. kMaps is how many maps the kernel can
// read, and `maps` how many it does.
template <typename scalar_t, int kMaps>
struct ConvMemory {
  using acc = acc_t<scalar_t>;

  int columns;     // of a walk's row: its own, and one more at each side
  char* rows;      // [stages][maps][walks][columns][token]
  int map, stage;  // bytes of all walks' rows of a map, and of all maps'
  acc* edges;      // [2 turns][2 sides][kConvPlaces][lanes][vector]: gradients in the outermost columns of a thread
  acc* sums;       // [sums][kConvPlaces][channels]; lies where the rows were
  size_t bytes;

  C10_HOST_DEVICE ConvMemory(int maps, int walks, int places, char* memory) {
    Carver carver(memory);
    columns = places * kConvColumns + 2;
    map = walks * columns * kConvTokenBytes<scalar_t>;
    stage = maps * map;
    rows = carver.take<char>(static_cast<size_t>(kConvStages<scalar_t, kMaps>) * stage);
    const bool backward = maps >= kConvBackwardMaps;
    edges = carver.take<acc>(backward ? 4 * kConvPlaces * kConvChannels<scalar_t> : 0);
    sums = reinterpret_cast<acc*>(memory);
    const size_t of_sums = sizeof(acc) * kConvSums * kConvPlaces * kConvChannels<scalar_t>;
    bytes = backward && carver.bytes() < of_sums ? of_sums : carver.bytes();
  }
};

}  // namespace ssm
