// Schemas of the selective tree scan, which has kernels for GPUs alone: elsewhere Python makes it of tree_scan.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(tree_ssm, m) {
  // x, delta [B, L, D]; A, delta_bias [D]; B [B, L]; schedule: a tree_schedule -> h [B, L, D]
  // parent, order [B, L]: the tree itself, of which forward mode, second derivatives and vmap are made. The kernels
  // read the schedule alone.
  m.def(
      "selective_tree_scan(Tensor x, Tensor delta, Tensor A, Tensor B, Tensor delta_bias, Tensor schedule, "
      "Tensor? parent=None, Tensor? order=None) -> Tensor h");
  m.def(
      "selective_tree_scan_backward(Tensor grad_h, Tensor x, Tensor delta, Tensor A, Tensor B, Tensor delta_bias, "
      "Tensor schedule, Tensor? parent=None, Tensor? order=None) -> (Tensor grad_x, Tensor grad_delta, Tensor grad_A, "
      "Tensor grad_B, Tensor grad_delta_bias)");
}
