// What the CUDA hosts of the scans along trees ask of their tensors beyond tree/inputs.h.
#pragma once

#include "common/cuda/token_rows.h"
#include "tree/cuda/unvisited.h"
#include "tree/cuda/walk_launch.h"
#include "tree/inputs.h"

namespace ssm {

// Whether every row begins at a multiple of 16 bytes.
inline bool is_aligned(const Tensor& x) {
  const int64_t width = 16 / x.element_size();
  const auto address = reinterpret_cast<uintptr_t>(x.const_data_ptr());
  return address % 16 == 0 && x.stride(0) % width == 0 && x.stride(1) % width == 0 && x.size(2) % width == 0;
}

inline Tensor check_schedule(const Tensor& schedule, const Tensor& x) {
  check_device(schedule, kCUDA, x, "schedule");
  check_dtype(schedule, kInt, "schedule");
  check_shape(schedule, {x.size(0), ScheduleLayout::of(x.size(0), x.size(1)).words()}, "schedule");
  const Tensor dense = contiguous(schedule);
  // Kernels read 16 bytes at a time, and a view may begin anywhere.
  return reinterpret_cast<uintptr_t>(dense.const_data_ptr()) % 16 == 0 ? dense : torch::stable::clone(dense);
}

// What walks of a launch have visited, and what they have written.
template <typename Params>
ScheduleVisits visits_of(const WalkLaunch<Params>& l, const ScanResults& results, const SampleSums& sums = {}) {
  return {l.schedule, l.batch, l.layout(), l.cut > 0, results, sums};
}

// Where the pieces of cut trees leave what they tell each other; see TrunkLaunch. `sums` go up and come down.
template <typename Params>
Tensor empty_piece_sums(const WalkLaunch<Params>& l, int sums, const Tensor& like, ScalarType dtype) {
  if (l.cut == 0) return empty({0}, like, dtype);
  return empty({l.batch, 1 + 2 * sums, l.most_pieces(), l.channels}, like, dtype);
}

}  // namespace ssm
