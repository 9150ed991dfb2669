// What the plans of the selective scan share (host.cpp, states_plan.h).
#pragma once

#include "common/integers.h"
#include "selective_scan/cuda/launch.h"

namespace ssm {

// Where the chunks leave their summaries and find their carries. It is on the device of `like`. The tensor that is
// returned has to live until the launches are queued.
inline Tensor make_workspace(ScanLaunch& launch, bool backward, const Tensor& like, ScalarType dtype) {
  const SelectiveScanParams& p = launch.p;
  Tensor workspace =
      empty({backward ? 5 : 3, p.batch, p.groups * p.inner, p.states, launch.chunks, p.channels}, like, dtype);
  launch.chunk_decay = part(workspace, 0).data_ptr();
  launch.chunk_state = part(workspace, 1).data_ptr();
  launch.state_before = part(workspace, 2).data_ptr();
  if (backward) {
    launch.chunk_gradient = part(workspace, 3).data_ptr();
    launch.gradient_after = part(workspace, 4).data_ptr();
  }
  return workspace;
}

}  // namespace ssm
