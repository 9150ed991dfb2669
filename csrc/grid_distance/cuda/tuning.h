// Sizes of the grid's distances on the GPU. csrc/README.md says how to try others.
#pragma once

#include <cstdint>

namespace ssm {

constexpr int kGridThreads = 128;  // of a block

// Threads that share a vertex, a power of two from 4 to 32: so many that each has about six vectors of its channels.
constexpr int grid_team(int64_t vectors) {
  int team = 4;
  while (team < 32 && vectors > 6 * team) team *= 2;
  return team;
}

}  // namespace ssm
