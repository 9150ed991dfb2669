// After a scan along a tree: sets the results of vertices that the schedule leaves out to zero.
#pragma once

#include "common/cuda/unvisited.h"
#include "tree/cuda/schedule.h"

namespace ssm {

// What a scan sums over the vertices of a sample: [batch, bytes], contiguous. It becomes 0 where the pieces of a
// cut tree do not fit together, since they may then have read states that nobody has written.
struct SampleSums {
  void* data = nullptr;
  int64_t bytes = 0;
};

struct ScheduleVisits {
  const int* schedule;
  int64_t batch;
  ScheduleLayout layout;
  bool in_pieces;  // whether the tree was walked piece by piece, and not as a whole
  ScanResults results;
  SampleSums sums = {};
};

// Errors begin with `op`.
void launch_clear_unvisited(const char* op, const ScheduleVisits& visits);

}  // namespace ssm
