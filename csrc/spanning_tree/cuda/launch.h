// What the host hands to the kernels of the spanning tree by value, and their launcher.
#pragma once

#include "spanning_tree/params.h"

namespace ssm {

// place: of doubles among the sorted weights, or null. Scratch of a sample: Components, for a list Tour, the tree; null
// where spanning_scratch_words() is 0. Blocks of a sample, `team`, are for the launcher to choose.
struct SpanningTreeLaunch {
  SpanningTreeParams p;
  const int64_t* place;
  uint32_t* scratch;
  int64_t scratch_stride;
  int team;
};

// `listed`: whether the graph is a list of edges, which may be none, rather than a grid. 32-bit words of global memory
// that a sample needs; none where a block has all of it in its shared memory.
int64_t spanning_scratch_words(const SpanningTreeParams& params, bool listed);

// scalar_t is the type of the weights.
template <typename scalar_t>
void launch_spanning_tree(const SpanningTreeLaunch& launch, bool listed);

}  // namespace ssm
