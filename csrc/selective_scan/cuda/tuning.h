// Tile sizes of the selective scan's CUDA kernels and what follows from them. csrc/README.md says how to try others.
// Versions are those of dev/log, selective-scan-gpu.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>
#include <cstdint>

namespace ssm {

// Positions of the sequence that one thread walks. With 7, sequences of 49, 196, 784 and 3136 leave few threads idle.
// Rejected: 14 (version 2b), which halves the exchanges but leaves more threads idle in short sequences.
constexpr int kTokens = 7;

// Threads side by side that make one row of a tile. RowSum in backward.cuh is written for 8.
constexpr int kLanes = 8;

// Neighbouring channels of one thread, by the bytes of an element. Rejected: 4 (versions 3 to 5), which leaves too few
// warps to cover the waits for global memory; it was faster only where one block holds a whole sequence.
constexpr int vector_width(int64_t item) {
  return item <= 4 ? 2 : 1;
}
// Channels of a tile.
constexpr int tile_channels(int64_t item) {
  return kLanes * vector_width(item);
}
template <typename scalar_t>
constexpr int kVector = vector_width(sizeof(scalar_t));
template <typename scalar_t>
constexpr int kColumns = tile_channels(sizeof(scalar_t));
// Stretches of a block's rows that different lanes of the scanning warp walk.
template <typename scalar_t>
constexpr int kSegments = 32 / kColumns<scalar_t>;

// Positions that one block holds at most, and its rows of threads. Rejected: 392 (version 1).
constexpr int kMaxPositions = 196;
constexpr int kMaxRows = kMaxPositions / kTokens;
constexpr int kMaxThreads = kLanes * kMaxRows;
// A block has whole warps, so that its positions are a multiple of these.
constexpr int kRowsOfWarp = 32 / kLanes;
constexpr int kPositionsOfWarp = kTokens * kRowsOfWarp;
static_assert(kMaxPositions % kPositionsOfWarp == 0);

// Blocks of a cluster: 16 on Hopper, kPortableCluster on later devices.
constexpr int kMaxCluster = 16;

// Blocks that a multiprocessor must have registers for (__launch_bounds__). Of two directions that share an exchange, a
// thread keeps more.
constexpr int forward_min_blocks(int64_t item, int joint) {
  return item == 8 ? 2 : joint == 1 ? 4 : 3;
}
// 128 registers. Rejected: 3 blocks, 80 registers (version 6), and 4 blocks, 72 registers (version 5): both spill.
constexpr int backward_min_blocks(int64_t item) {
  return item == 8 ? 1 : 2;
}

// With many states a channel (states.h): states of a launch at most, of a lane, and of a lane where there would be too
// few lanes otherwise; channels of a thread in the forward pass where there are warps enough; tokens of a tile; tokens
// between two states that are kept for the backward pass, which a thread computes again into registers; orders of a
// thread's states in shared memory; threads of a block at most, which leave a thread of two channels 96 registers.
constexpr int kMostStates = 16;
constexpr int kOwnStates = 4;
constexpr int kFewStates = 2;
constexpr int kThreadChannels = 2;
constexpr int kStateTile = 32;
constexpr int kStateRun = 8;
constexpr int kRunsOfTile = kStateTile / kStateRun;
constexpr int kWeightCopies = kOwnStates;
constexpr int states_threads(int64_t item, int channels = 1) {
  return item == 8 ? 256 : channels == 1 ? 512 : 640;
}
// The backward kernel keeps a run's decays and states in registers.
constexpr int states_backward_threads(int64_t item) {
  return item == 8 ? 256 : 384;
}

// Warps of each multiprocessor, if a thread has one channel, from which on a launch takes a single direction, a thread
// has kThreadChannels channels, a lane has kOwnStates states and not kFewStates, and a block walks a whole sequence;
// those to have if sequences are cut into chunks; tiles of a chunk at least. For the choice of a block's threads:
// registers of a multiprocessor and of a thread; what a block costs beside its warps, in warps; what its waits cost if
// it is alone, in blocks; and what it costs in the backward pass, since each part of the channels has its own sums of
// the gradients of B and C.
constexpr int warps_of_direction(bool backward) {
  return backward ? 32 : 96;
}
constexpr int kWarpsOfChannels = 24;
constexpr int kWarpsOfFew = 8;
constexpr int kWarpsOfWhole = 4;
constexpr int kWarpsOfChunks = 16;
constexpr int kTilesOfChunk = 2;
constexpr int64_t kRegisters = 65536;
constexpr int walk_registers(int channels) {
  return channels == 1 ? 88 : 96;
}
constexpr int kBackwardRegisters = 168;
constexpr int kWarpsOfBlock = 1;
constexpr double kWaitOfBlock = 0.5;
constexpr double kCostOfSplit = 0.02;

// Inner directions that one block keeps the weights and the orders of. Above it, each direction has a launch of its
// own.
constexpr int kMaxAtOnce = 4;
constexpr int kMaxDirections = 8192;  // the directions' flags are a kernel parameter, a bit each

// Rows whose summaries the scanning warp reads before it uses the first of them.
constexpr int kTogether = 7;

// Warps to have for each multiprocessor, as far as there is work for them: about as many as it holds at a time.
constexpr int kResidentWarps = 28;
constexpr int kMaxBlocks = 32;

// The kernel that carries states from chunk to chunk: threads of a block, and chunks whose summaries a thread reads
// before it uses the first of them.
constexpr int kCarryThreads = 128;
constexpr int kCarryAhead = 32;

// The kernel that sums partial gradients: a block's columns and rows of threads. Up to kFewRows rows are summed by one
// thread, kSumThreads in a block.
constexpr int kSumColumns = 32;
constexpr int kSumRows = 32;
constexpr int kFewRows = 32;
constexpr int kSumThreads = 256;

// Elements of a tile in shared memory, with one row that stands for positions without a token.
template <typename scalar_t>
C10_HOST_DEVICE constexpr int tile_size(int positions) {
  return (positions + 1) * kColumns<scalar_t>;
}

// The most positions of a block whose shared memory fits; bytes_of(rows) is the size of a block with so many rows of
// threads (memory.h).
template <typename Bytes>
int64_t positions_that_fit(size_t shared_bytes, const Bytes& bytes_of) {
  int positions = kMaxPositions;
  while (positions > kPositionsOfWarp && bytes_of(positions / kTokens) > shared_bytes) positions -= kPositionsOfWarp;
  return positions;
}

}  // namespace ssm
