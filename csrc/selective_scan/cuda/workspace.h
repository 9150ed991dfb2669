// What the plans of the selective scan share (host.cpp, states_plan.h).
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "selective_scan/cuda/launch.h"

namespace ssm {

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Where the chunks leave their summaries and find their carries. `options` are those of acc_t. The tensor that is
// returned has to live until the launches are queued.
inline at::Tensor make_workspace(ScanLaunch& launch, bool backward, const at::TensorOptions& options) {
  const SelectiveScanParams& p = launch.p;
  at::Tensor workspace =
      at::empty({backward ? 5 : 3, p.batch, p.groups * p.inner, p.states, launch.chunks, p.channels}, options);
  launch.chunk_decay = workspace.select(0, 0).data_ptr();
  launch.chunk_state = workspace.select(0, 1).data_ptr();
  launch.state_before = workspace.select(0, 2).data_ptr();
  if (backward) {
    launch.chunk_gradient = workspace.select(0, 3).data_ptr();
    launch.gradient_after = workspace.select(0, 4).data_ptr();
  }
  return workspace;
}

}  // namespace ssm
