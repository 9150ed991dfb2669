// What the host hands to the kernels of the spanning tree by value, and their launcher.
#pragma once

#include "spanning_tree/params.h"

namespace ssm {

// place: the places of weights in double among the sorted weights, or null. scratch: a sample's Components, its Tour if
// it is a list, and its tree; null where spanning_scratch_words() is 0. team: blocks of a sample, which the launcher
// chooses.
struct SpanningTreeLaunch {
  SpanningTreeParams p;
  const int64_t* place;
  uint32_t* scratch;
  int64_t scratch_stride;
  int team;
};

// The 32-bit words of global memory that a sample needs on the present device: none where a block has all of it in its
// shared memory. `listed`: whether the graph is a list of edges, perhaps an empty one, rather than a grid.
int64_t spanning_scratch_words(const SpanningTreeParams& params, bool listed);

// scalar_t is the type of the weights.
template <typename scalar_t>
void launch_spanning_tree(const SpanningTreeLaunch& launch, bool listed);

// Copies weights in double, but zeros of both signs as one: sorting must not tell them apart.
void launch_sort_keys(const double* weights, double* keys, int64_t count);

// The places of edges, [batch, edges], whose numbers are given by place. Every edge has one place.
void launch_places(const int64_t* edge_at, int64_t* place, int64_t batch, int64_t edges);

}  // namespace ssm
