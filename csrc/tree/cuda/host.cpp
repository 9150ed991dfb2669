// Host side of the tree scan's schedule on the GPU.
#include "tree/cuda/schedule.h"

#include "common/checks.h"
#include "tree/cuda/schedule_launch.h"

namespace ssm {
namespace {

Tensor tree_schedule(const Tensor& parent) {
  SSM_CHECK(parent.dim() == 2 && parent.size(1) >= 1, "parent must be [B, L] with L at least 1, got ", parent.sizes());
  SSM_CHECK(parent.size(1) < kLongestWalk, "the tree has 2^27 vertices or more: ", parent.size(1));
  check_device(parent, kCUDA, parent, "parent");
  check_dtype(parent, kLong, "parent");
  const DeviceGuard guard(parent.get_device_index());
  const int64_t batch = parent.size(0), length = parent.size(1);
  const ScheduleLayout layout = ScheduleLayout::of(batch, length);
  // Zeros, so that even what is no tree leads nowhere outside the tensors.
  Tensor schedule = zeros({batch, layout.words()}, parent, kInt);
  if (batch == 0) return schedule;
  const Tensor parents = contiguous(parent);
  const int64_t words = schedule_scratch_words(length);
  const Tensor scratch = empty({batch, words}, schedule);
  const ScheduleLaunch l{parents.const_data_ptr<int64_t>(), schedule.mutable_data_ptr<int>(),
      words > 0 ? scratch.mutable_data_ptr<int>() : nullptr, words, static_cast<int>(length), 1,
      static_cast<int>(layout.cut)};
  launch_tree_schedule(l, batch);
  return schedule;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("tree_schedule", TORCH_BOX(&tree_schedule));
}

}  // namespace ssm
