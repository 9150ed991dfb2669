// Sizes that all walks along trees share, and what follows from them. csrc/README.md says how to try others; the
// versions that are named here are those of the performance log of the tree operators.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ssm {

// Threads of a block, each with one or two channels: a walk is one warp's.
constexpr int kWarp = 32;

// Steps whose rows are copied, and worked on, together.
constexpr int kChunk = 8;

// Chunks in the ring of shared memory that rows are copied into: many where few warps share a multiprocessor, few where
// the deep ring would leave warps without room. Rejected: rows asked for 8 to 32 steps ahead into registers (version
// 4), whose loop was too long for the instruction cache.
constexpr int kDeepRing = 8, kShallowRing = 3;

// Steps that a warp holds in shared memory, in blocks of kWarp: those that it works on or asks rows for, and a spare.
constexpr int kStepBlocks = 4;
constexpr int kHeldSteps = kStepBlocks * kWarp;
static_assert(kDeepRing * kChunk <= 2 * kWarp, "the ring reaches into the next two blocks of steps");

// Half types take two channels a thread, unless a multiprocessor has at most so many warps (version 7). Rejected for
// float: two channels (version 6), which fills five slices of 160 channels worse than one.
constexpr int kFewWarps = 8;

// Trees are cut into pieces if L is at least kLeastCut and there are fewer than sqrt(L) of them (version 8): maps of
// the usual networks have the fewer channels the more vertices, so that more trees than that fill a GPU by whole walks.
// The size of a piece is the power of two, kLeastPiece at least, with which there are at most kPieces pieces in all
// and at most kPiecesOfTree in one tree. Simulated on trees of smoothed features; 256 and 512 vertices at 200×304.
// Also written in tree_ssm/ops/tree_scan/register.py, which gives the schedule's shape.
constexpr int64_t kLeastCut = 512, kLeastPiece = 64, kPieces = 512, kPiecesOfTree = 256;
constexpr int64_t piece_size(int64_t batch, int64_t length) {
  if (length < kLeastCut || batch * batch >= length) return 0;
  int64_t size = kLeastPiece;
  while (size * kPieces < batch * length || size * kPiecesOfTree < length) size *= 2;
  return size;
}
// The scan over the pieces: a thread for each piece, and for each of a block's channels 32 bytes of a row.
constexpr int kTrunkThreads = 1024;
constexpr int kTrunkBytes = 32;

// The kernel that makes schedules: threads of a block, vertices that a thread reads before it uses the first, and bytes
// of a sample's arrays up to which a block holds them in shared memory.
constexpr int kScheduleThreads = 1024;
constexpr int kScheduleAtOnce = 4;
constexpr int64_t kScheduleShared = 200 * 1024;

}  // namespace ssm
