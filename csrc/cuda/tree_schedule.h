// How the tree scan goes through a tree: one of two ways, by the number of vertices.
//
// A walk: depth first, for one warp and a few channels. The child with the largest subtree, the heavy one, comes last,
// so that what waits on the stack is less than log2(L) deep. Backwards the walk meets children before their parents.
//
// Rounds, where one warp would walk for too long: every vertex continues into the child with the largest subtree, so
// that the tree falls into paths, and a path hangs from a vertex of another path. A path's round is the number of paths
// above it: at most log2(L), since a subtree is less than half its parent's where a path ends. Within a round all paths
// are independent. A path is cut into segments of at most kSegment vertices; a path of several segments is a chain.
#pragma once

#include <cstdint>

namespace ssm {

constexpr int64_t kLongestWalk = 20000;
constexpr int64_t kMostSteps = int64_t(1) << 27;  // that a walk can have, be it the faster way or not

// A walk takes its time whatever the batch, rounds share the GPU: which is faster was measured (docs/ops).
constexpr bool prefers_walk(int64_t batch, int64_t length) {
  return length <= 4096 || (length <= kLongestWalk && batch >= 32);
}

// A step of a walk. Where the walk forks, it leaves something for the other children (or, backwards, for the parent) in
// a slot of its stack: the one for the vertex, if it has several children, and the one for its parent, if the vertex
// is not the parent's first child, which needs none. The slots are known beforehand: the number of edges above that
// lead to other than last children, at most log2(L) since the last child is the heavy one.
struct alignas(8) WalkStep {
  uint32_t vertex, links;

  static constexpr uint32_t kLeaf = 1, kMiddleChild = 2, kFirstChild = 4;  // kMiddleChild: neither first nor last
  static constexpr uint32_t kSlotSize = 128;                               // slots are counted in this unit
  // Read where the vertex has one child or none, so that it holds zeros, and written where the parent needs nothing.
  static constexpr uint32_t kZeroSlot = 0, kUnreadSlot = 1, kFirstSlot = 2;

  constexpr uint32_t own_slot() const { return links & 0xff80; }
  constexpr uint32_t parent_slot() const { return links >> 16; }
  static constexpr uint32_t slots(uint32_t own, uint32_t parent) { return own * kSlotSize | parent * kSlotSize << 16; }
};
// Forks that can wait for one vertex, and the stack's slots.
constexpr uint32_t walk_forks(int64_t length) {
  uint32_t forks = 0;
  for (; length > 0; length /= 2) ++forks;
  return forks;
}
constexpr uint32_t walk_slots(int64_t length) {
  return WalkStep::kFirstSlot + walk_forks(length);
}

constexpr int kSegment = 8;
constexpr int kMaxRounds = 32;

// One vertex, in the order of the schedule: round by round, path by path, each path from its top to its bottom.
// Its light children are those on other paths; they are heads of paths.
struct alignas(16) VertexRecord {
  int vertex, first_light, lights_begin, lights;  // first_light: the vertex; all of them: lights[lights_begin + …]
};

// A run of records of one path.
struct alignas(8) Segment {
  int begin, length_and_flags;
  constexpr int length() const { return length_and_flags & 0xff; }
  constexpr bool chained() const { return (length_and_flags & 0x100) != 0; }  // one of several of its path
};

struct alignas(8) Chain {
  int first_segment, segments;  // from the top down
};

// One sample's schedule as int32: the steps of a walk, or rounds, segments_begin and chains_begin of every round, then
// the arrays.
struct ScheduleLayout {
  int64_t length;
  bool walk;

  static constexpr int64_t kSegmentsBegin = 1, kChainsBegin = kSegmentsBegin + kMaxRounds + 1;
  static constexpr int64_t kHeader = (kChainsBegin + kMaxRounds + 1 + 3) / 4 * 4;
  constexpr int64_t records() const { return kHeader; }
  constexpr int64_t lights() const { return records() + 4 * length; }
  constexpr int64_t segments() const { return lights() + (length + 1) / 2 * 2; }
  constexpr int64_t chains() const { return segments() + 2 * length; }
  constexpr int64_t words() const {
    return walk ? (2 * length + 3) / 4 * 4 : (chains() + 2 * (length / kSegment + 1) + 3) / 4 * 4;
  }
};

}  // namespace ssm
