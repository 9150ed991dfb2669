// What the host hands to the kernels of a walk by value, whatever is scanned.
#pragma once

#include <cstdint>

#include "tree_scan_inputs.h"
#include "tree_schedule.h"

namespace ssm {

struct WalkLaunch {
  int64_t batch, length, channels;
  int64_t cut;  // see ScheduleLayout; 0 where trees are walked whole
  bool backward;
  bool aligned;         // whether every row begins at a multiple of 16 bytes
  int slices;           // blocks of channels
  const int* schedule;  // [batch, ScheduleLayout::words()]
  void* piece_sums;     // see TrunkLaunch; null where trees are walked whole

  constexpr ScheduleLayout layout() const { return {length, cut}; }
  constexpr int64_t most_pieces() const { return cut ? layout().most_pieces() : 1; }
  // A warp takes its time for a step, whatever else the multiprocessor does; with few warps there, half types too are
  // better off with one channel a thread.
  bool prefers_narrow() const {
    return batch * (cut ? length / cut : 1) * ((channels + 31) / 32) <= 8 * multiprocessors();
  }
};

// Where the pieces of cut trees leave what they tell each other.
inline at::Tensor empty_piece_sums(const WalkLaunch& l, int sums, const at::TensorOptions& options) {
  if (l.cut == 0) return at::empty({0}, options);
  return at::empty({l.batch, 1 + 2 * sums, l.most_pieces(), l.channels}, options);
}

}  // namespace ssm
