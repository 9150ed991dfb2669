// Schemas of the quadtree token order and of the gradient of its straight-through mask.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(quadtree_ssm, m) {
  // choice [B] -> order [B, L]
  m.def(
      "quadtree_order(Tensor choice, SymInt height, SymInt width, int levels, SymInt shift_y, SymInt shift_x) -> "
      "Tensor");
  // a, b [B, L, D] -> gradient of the straight-through mask [B, 4]
  m.def(
      "mask_gradient(Tensor a, Tensor b, Tensor choice, SymInt height, SymInt width, SymInt shift_y, "
      "SymInt shift_x) -> Tensor");
}
