// The scan over the pieces of cut trees: what comes up to each piece from those below it, and down from the one above.
#pragma once

#include <cstdint>

#include "tree/cuda/schedule.h"

namespace ssm {

// `rows` are rows of channels, acc [batch, 1 + 2 sums, most_pieces, D]. With e the last vertex of a piece's spine, they
// hold at first: A, the product of the spine's weights; B, for each sum, what the piece alone hands up; Q, what h or G
// of e is if nothing comes from below or above. Afterwards B has become x, what comes up to e, and Q has become h or G
// above the first vertex.
struct TrunkLaunch {
  int64_t batch, channels;
  ScheduleLayout layout;
  const int* schedule;
  void* rows;
  bool is_double;   // whether acc is double, not float
  int sums;         // 1, or 2 where η and G go along with ξ and h
  bool both, down;  // both passes; or up, then down if `down`
};

// Errors begin with `op`.
void launch_trunk(const char* op, const TrunkLaunch& launch);

}  // namespace ssm
