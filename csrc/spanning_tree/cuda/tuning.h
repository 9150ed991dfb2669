// Sizes of the spanning tree's CUDA kernels and what follows from them. csrc/README.md says how to try others.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <algorithm>
#include <cstdint>

namespace ssm {

constexpr int kSpanningThreads = 1024;  // of a block at most

// A sample is done in shared memory, by one block, if it needs at most so many bytes of it and the device has as much.
constexpr int64_t kSpanningShared = 200 * 1024;

// A sample in global memory gets as many blocks as have so many edges a thread, while the launch has fewer blocks than
// this for each multiprocessor.
constexpr int kEdgesOfThread = 2;
constexpr int kBlocksOfMultiprocessor = 2;

// Entries of the ring that holds the newest part of a grid's queue where the sample is in global memory; a power of
// two.
constexpr uint32_t kQueueEntries = 4096;

// The edges that a thread of a grid's block keeps in registers: the fewest of 1, 2, 4 and 8 that are enough. Grids with
// more edges than 8 * kSpanningThreads keep their weights in shared memory, and their number is 0: 16 edges a thread
// would spill.
constexpr int owned_edges(int64_t edges) {
  for (int own = 1; own <= 8; own *= 2) {
    if (edges <= int64_t(own) * kSpanningThreads) return own;
  }
  return 0;
}

// One block with as many threads as there are items.
constexpr int spanning_threads(int64_t items) {
  return static_cast<int>(std::clamp<int64_t>((items + 31) / 32 * 32, 32, kSpanningThreads));
}

// 32-bit words of one sample's arrays.
//
// Components (graph.cuh): four words for each vertex.
constexpr int kComponentArrays = 4;
// The sides of a grid's vertices that its tree takes: four bits each.
C10_HOST_DEVICE constexpr int64_t side_words(int64_t vertices) {
  return (vertices + 7) / 8;
}
// The edges of a list that its tree takes: a bit each.
C10_HOST_DEVICE constexpr int64_t taken_words(int64_t edges) {
  return (edges + 31) / 32;
}
// Neighbours (list.cuh): where they begin, how many are found, and two lists of two for each edge of the tree.
C10_HOST_DEVICE constexpr int64_t neighbour_words(int64_t vertices) {
  return 6 * vertices + 1;
}
// Tour (list.cuh): two arrays of two links, each of two words, for each vertex; neighbours; vertices by their place.
C10_HOST_DEVICE constexpr int64_t tour_words(int64_t vertices) {
  return (8 * vertices + neighbour_words(vertices) + vertices + 1) / 2 * 2;
}

// GridTour (grid_tour.cuh): two words for each of the 2 * (vertices - 1) arcs and one for each vertex, and besides a
// word for each splitter, of which there are no more than threads.
C10_HOST_DEVICE constexpr int64_t grid_tour_words(int64_t vertices) {
  return 4 * (vertices - 1) + vertices;
}

// A grid as one block holds it in shared memory. It begins with the tree. What follows is for the rounds, the
// components and the weights if threads do not keep them; then it is for the tour, whose splitters take the place of
// the tree.
struct WholeGrid {
  int64_t vertices, edges;

  C10_HOST_DEVICE constexpr int64_t components() const { return side_words(vertices); }
  C10_HOST_DEVICE constexpr int64_t weights() const { return components() + kComponentArrays * vertices; }
  C10_HOST_DEVICE constexpr int64_t tour() const {
    return side_words(vertices) > kSpanningThreads ? side_words(vertices) : kSpanningThreads;
  }
  constexpr int64_t bytes() const {
    const int64_t rounds = weights() + (owned_edges(edges) > 0 ? 0 : edges);
    return 4 * std::max(rounds, tour() + grid_tour_words(vertices));
  }
};

// A listed graph as one block holds it in shared memory: the labels; what the rounds and the weights need, and after
// them the tour; the edges, two vertices to a word; the tree.
struct WholeList {
  int64_t vertices, edges;

  C10_HOST_DEVICE constexpr int64_t work() const { return (vertices + 1) / 2 * 2; }
  C10_HOST_DEVICE constexpr int64_t packed() const {
    const int64_t rounds = (kComponentArrays - 1) * vertices + edges, tour = tour_words(vertices);
    return work() + (rounds > tour ? rounds : tour);
  }
  C10_HOST_DEVICE constexpr int64_t tree() const { return packed() + edges; }
  C10_HOST_DEVICE constexpr int64_t words() const { return tree() + taken_words(edges); }
  constexpr int64_t bytes() const { return 4 * words(); }
};

// Packed edges have 16 bits for a vertex, and one pair of ends stands for no edge.
constexpr int64_t kMostPackedVertices = 65535;

// What rooting a grid in global memory holds in shared memory: the ring, and the sides where they fit.
struct RootGrid {
  int64_t vertices;

  constexpr int64_t bytes(bool with_sides) const {
    return 4 * (kQueueEntries + (with_sides ? side_words(vertices) : 0));
  }
};

}  // namespace ssm
