// Schemas of the tree scan.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(tree_ssm, m) {
  // u, weight [B, L, D]; parent, order [B, L]; schedule: the tree_schedule of the same parents, or none
  // -> h [B, L, D]
  m.def(
      "tree_scan(Tensor u, Tensor weight, Tensor parent, Tensor order, bool both, Tensor? schedule=None) -> Tensor h");
  m.def(
      "tree_scan_backward(Tensor grad_h, Tensor u, Tensor weight, Tensor parent, Tensor order, bool both, "
      "Tensor? schedule=None) -> (Tensor grad_u, Tensor grad_weight)");
}
