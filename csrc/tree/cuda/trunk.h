// Between the pieces of cut trees: what comes up to each piece from those below it, and down from the one above.
#pragma once

#include <cstdint>

#include "tree/cuda/schedule.h"

namespace ssm {

// Rows of channels, acc [batch, 1 + 2 sums, most_pieces, D], with e the last vertex of a piece's spine. In: A, the
// product of the spine's weights; B, what the piece alone hands up, of every sum; Q, what h or G of e is if nothing
// comes from below or above. Out, in the place of B: x, what comes up to e; in the place of Q: h or G above the first
// vertex.
struct TrunkLaunch {
  int64_t batch, channels;
  ScheduleLayout layout;
  const int* schedule;
  void* rows;
  bool is_double;   // whether acc is double, not float
  int sums;         // 1, or 2 where η and G go along with ξ and h
  bool both, down;  // both passes; or up, then down if `down`
};

void launch_trunk(const TrunkLaunch& launch);

}  // namespace ssm
