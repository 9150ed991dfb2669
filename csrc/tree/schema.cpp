// Schema of the schedule, which tells the GPU kernels of all tree scans how to go through a tree.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(tree_ssm, m) {
  // parent [B, L] -> schedule [B, words], int32, for the forward and the backward pass; see tree/cuda/schedule.h.
  m.def("tree_schedule(Tensor parent) -> Tensor");
}
