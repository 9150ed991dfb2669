// How a scan goes through a tree: one warp walks it depth first, for a few channels. The heavy child, which has the
// largest subtree, comes last, so that at most log2(L) entries wait on the stack. Walked backwards, children come
// before their parents.
//
// Where there are few large trees, they are cut into pieces, each of which a warp walks. The trunk is the vertices with
// more than `cut` vertices in their subtrees. A piece is a run of the walk. Its spine is some vertices of the trunk,
// each the heavy child of the one before; the rest of the piece hangs from them and is not trunk. So a piece has one
// edge above its first vertex, and all edges to pieces below are at the last vertex of its spine. A new piece begins
// where the trunk forks and where the walk passes a multiple of `cut`.
#pragma once

#include <cstdint>

#include "tree/cuda/tuning.h"

namespace ssm {

constexpr int64_t kLongestWalk = int64_t(1) << 27;

// A step of a walk. Where the walk forks, it leaves something for the other children (or, backwards, for the parent) in
// a slot of its stack. A vertex with several children has a slot of its own. A vertex that is not its parent's first
// child uses its parent's slot. Slots are known beforehand: a slot's number is the number of edges above the vertex
// that lead to other than last children, which is at most log2(L), since the last child is the heavy one.
struct alignas(8) WalkStep {
  uint32_t vertex, links;

  static constexpr uint32_t kLeaf = 1, kMiddleChild = 2, kFirstChild = 4;  // kMiddleChild: neither first nor last
  static constexpr uint32_t kSlotSize = 128;                               // slots are counted in this unit
  // kZeroSlot holds zeros; it is read where a vertex has one child or none. kUnreadSlot is written where the parent
  // needs nothing.
  static constexpr uint32_t kZeroSlot = 0, kUnreadSlot = 1, kFirstSlot = 2;

  constexpr uint32_t own_slot() const { return links & 0xff80; }
  constexpr uint32_t parent_slot() const { return links >> 16; }
  static constexpr uint32_t slots(uint32_t own, uint32_t parent) { return own * kSlotSize | parent * kSlotSize << 16; }

  // The step, brought inside a tree of so many vertices and a stack of so many slots. A schedule is an argument, and
  // nobody can check it without waiting for the device: whatever it holds, a walk must stay inside the tensors.
  constexpr WalkStep inside(uint32_t vertices, uint32_t stack) const {
    const uint32_t last = (stack - 1) * kSlotSize, above = parent_slot() & 0xff80;
    const uint32_t own = own_slot() < last ? own_slot() : last, parent = above < last ? above : last;
    return {vertex < vertices ? vertex : vertices - 1, own | parent << 16 | (links & (kSlotSize - 1))};
  }
};
// Forks that can wait for one vertex, and the slots of the stack.
constexpr uint32_t walk_forks(int64_t length) {
  uint32_t forks = 0;
  for (; length > 0; length /= 2) ++forks;
  return forks;
}
constexpr uint32_t walk_slots(int64_t length) {
  return WalkStep::kFirstSlot + walk_forks(length);
}

// Pieces are numbered in the order of the walk, so that those below a piece follow it. Its first child is the next.
struct alignas(16) Piece {
  int begin, spine_begin;  // its first step and its spine's first vertex; both end where the next piece begins
  int parent, after;       // the piece above, and the next one that is not below

  // The links of piece k, brought to where they must lead: the one up to an earlier piece, the other to a later one.
  // So who follows them comes to an end, whatever a schedule holds.
  constexpr int parent_of(int k) const { return k == 0 || parent < 0 ? 0 : parent < k ? parent : k - 1; }
  constexpr int after_of(int k) const { return after > k ? after : k + 1; }
};

// One sample's schedule as int32: the steps of the walk. If the tree is cut, there follow the spines of all pieces as
// steps whose links are their places in the walk, the number of pieces, the pieces, and one more piece that says where
// the last one ends.
struct ScheduleLayout {
  int64_t length;
  int64_t cut;  // a subtree of more vertices is trunk; 0 where trees stay whole

  static constexpr ScheduleLayout of(int64_t batch, int64_t length) { return {length, piece_size(batch, length)}; }
  constexpr int64_t spine() const { return 2 * length; }
  constexpr int64_t count() const { return 4 * length; }
  constexpr int64_t pieces() const { return count() + 4; }
  // The trunk has at most L / cut leaves, so less than twice as many runs without a fork, and is cut L / cut times.
  constexpr int64_t most_pieces() const { return 3 * (length / cut) + 1; }
  constexpr int64_t words() const { return cut ? pieces() + 4 * (most_pieces() + 1) : (2 * length + 3) / 4 * 4; }
};

constexpr int kMostPieces = ScheduleLayout{kPiecesOfTree, 1}.most_pieces();  // of a tree that is cut
static_assert(kTrunkThreads >= kMostPieces, "a thread for each piece");

}  // namespace ssm
