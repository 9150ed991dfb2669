// Schemas of the selective subtree scan.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(tree_ssm, m) {
  // x, delta [B, L, D]; A [D, N]; B, C [B, L, N]; delta_bias [D]; parent, order [B, L]
  // -> y [B, L, D]; root_state [B, D, N].
  // next: an edge takes the step Δ of the token after its child, rather than the child's own.
  // schedule: a tree_schedule, which the GPU kernel needs.
  m.def(
      "selective_subtree_scan(Tensor x, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor delta_bias, Tensor parent, "
      "Tensor order, bool next, Tensor? schedule=None) -> (Tensor y, Tensor root_state)");
  m.def(
      "selective_subtree_scan_backward(Tensor grad_y, Tensor? grad_root_state, Tensor x, Tensor delta, Tensor A, "
      "Tensor B, Tensor C, Tensor delta_bias, Tensor parent, Tensor order, bool next, Tensor? schedule=None) -> "
      "(Tensor grad_x, Tensor grad_delta, Tensor grad_A, Tensor grad_B, Tensor grad_C, Tensor grad_delta_bias)");
}
