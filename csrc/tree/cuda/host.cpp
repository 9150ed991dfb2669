// Host side of the tree scan's schedule on the GPU.
#include "tree/cuda/schedule.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "common/checks.h"
#include "tree/cuda/schedule_launch.h"

namespace ssm {
namespace {

at::Tensor tree_schedule(const at::Tensor& parent) {
  TORCH_CHECK(
      parent.dim() == 2 && parent.size(1) >= 1, "parent must be [B, L] with L at least 1, got ", parent.sizes());
  TORCH_CHECK(parent.size(1) < kLongestWalk, "the tree has 2^27 vertices or more: ", parent.size(1));
  check_device(parent, at::kCUDA, parent, "parent");
  check_dtype(parent, at::kLong, "parent");
  const c10::cuda::CUDAGuard guard(parent.device());
  const int64_t batch = parent.size(0), length = parent.size(1);
  const ScheduleLayout layout = ScheduleLayout::of(batch, length);
  // Zeros, so that even what is no tree leads nowhere outside the tensors.
  at::Tensor schedule = at::zeros({batch, layout.words()}, parent.options().dtype(at::kInt));
  if (batch == 0) return schedule;
  const at::Tensor parents = parent.contiguous();
  const int64_t words = schedule_scratch_words(length);
  const at::Tensor scratch = at::empty({batch, words}, schedule.options());
  const ScheduleLaunch l{parents.const_data_ptr<int64_t>(), schedule.data_ptr<int>(),
      words > 0 ? scratch.data_ptr<int>() : nullptr, words, static_cast<int>(length), 1, static_cast<int>(layout.cut)};
  launch_tree_schedule(l, batch);
  return schedule;
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("tree_schedule", &tree_schedule);
}

}  // namespace ssm
