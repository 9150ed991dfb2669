// Launches a kernel of the selective scan, as clusters where the blocks of a sequence exchange their summaries.
#pragma once

#include "common/cuda/launch.h"
#include "selective_scan/cuda/launch.h"

namespace ssm {

// Rows beyond what one dimension of a grid holds go to the next; blocks past the end leave at once.
inline dim3 grid_of(int64_t columns, int64_t rows) {
  const int64_t layers = (rows + kMaxGridY - 1) / kMaxGridY;
  return dim3(grid_blocks(columns, "selective_scan"), static_cast<unsigned>(layers == 1 ? rows : kMaxGridY),
      static_cast<unsigned>(layers));
}

template <typename... Arguments>
void launch_blocks(
    void (*kernel)(ScanLaunch, Arguments...), const ScanLaunch& a, size_t shared_bytes, const Arguments&... arguments) {
  const int64_t columns = channel_splits(a) * a.chunks, rows = a.p.batch * a.p.groups;
  if (columns == 0 || rows == 0) return;
  const int cluster = a.phase == Phase::kWhole ? a.chunks : 1;
  launch_kernel("selective_scan", kernel,
      {grid_of(columns, rows), dim3(static_cast<unsigned>(kLanes * a.rows)), shared_bytes, cluster, a.stream}, a,
      arguments...);
}

}  // namespace ssm
