// Sizes that all walks along trees share, and what follows from them. csrc/README.md says how to try others. Versions
// are those of dev/log, tree-scan-gpu.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ssm {

// Threads of a block, each with one or two channels: a walk is one warp's.
constexpr int kWarp = 32;

// Steps whose rows are copied, and worked on, together.
constexpr int kChunk = 8;

// Chunks in the ring of shared memory that rows are copied into: the deep ring if all warps fit with it, else the
// shallow one. Rejected: rows read into registers 8 to 32 steps ahead (version 4), with which a step took 150 cycles.
constexpr int kDeepRing = 8, kShallowRing = 3;

// Steps that a warp holds in shared memory, in blocks of kWarp: those that it works on or asks rows for, and a spare.
constexpr int kStepBlocks = 4;
constexpr int kHeldSteps = kStepBlocks * kWarp;
static_assert(kDeepRing * kChunk <= 2 * kWarp, "the ring reaches into the next two blocks of steps");

// Half types take two channels a thread, unless a multiprocessor has at most so many warps (version 7). Float takes
// one, with which 160 channels are five whole slices (version 6).
constexpr int kFewWarps = 8;

// Trees are cut into pieces if L is at least kLeastCut and there are fewer than sqrt(L) of them (version 8). If there
// are more, whole walks fill a GPU, since the maps of the usual networks have the fewer channels the more vertices. The
// size of a piece is the least power of two, from kLeastPiece on, with B·L / size at most kPieces and L / size at most
// kPiecesOfTree: about 600 pieces in all, as simulated on trees of smoothed features. A piece is smaller than its tree,
// whose root would else be no trunk.
// tree_ssm/ops/tree_scan/register.py has the same rule, since it gives the schedule's shape.
constexpr int64_t kLeastCut = 512, kLeastPiece = 64, kPieces = 512, kPiecesOfTree = 256;
constexpr int64_t piece_size(int64_t batch, int64_t length) {
  if (length < kLeastCut || batch * batch >= length) return 0;
  int64_t size = kLeastPiece;
  while (size * kPieces < batch * length || size * kPiecesOfTree < length) size *= 2;
  return size < length ? size : 0;
}
// The scan over the pieces: threads of a block, one for each piece at least, and bytes of a row that a block takes. The
// most pieces of a tree take 132 KiB of shared memory, more than GPUs before the A100 have, so that these take fewer
// bytes of a row, for which 40 KiB are enough.
constexpr int kTrunkThreads = 1024;
constexpr int kTrunkBytes = 32, kLeastTrunkBytes = 8;

// The kernel that makes schedules: threads of a block, vertices that a thread reads before it uses the first, and bytes
// of a sample's arrays up to which a block holds them in shared memory if the device has as much.
constexpr int kScheduleThreads = 1024;
constexpr int kScheduleAtOnce = 4;
constexpr int64_t kScheduleShared = 200 * 1024;

}  // namespace ssm
