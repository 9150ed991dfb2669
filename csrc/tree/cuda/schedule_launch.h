// What the host hands to the kernel that makes schedules, and its launcher.
#pragma once

#include <cstdint>

namespace ssm {

struct ScheduleLaunch {
  const int64_t* parent;   // contiguous [batch, length]
  int* schedule;           // contiguous [batch, ScheduleLayout::words()], zeros
  int* scratch;            // [batch, scratch_stride], or null where it fits shared memory
  int64_t scratch_stride;  // schedule_scratch_words()
  int length, team, cut;   // blocks of a sample are for the launcher to choose
};

// Words of scratch in global memory that a sample needs on the present device: none where a block has them in its
// shared memory.
int64_t schedule_scratch_words(int64_t length);

void launch_tree_schedule(const ScheduleLaunch& launch, int64_t batch);

}  // namespace ssm
