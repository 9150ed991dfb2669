// Schemas of the minimum spanning tree.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(tree_ssm, m) {
  // edge_weight [B, E]; edges [E, 2] or [B, E, 2], or none for the height × width grid; root [B]
  // -> parent, order [B, L]; fault [B, 2].
  // spanning_tree raises no error about values: `fault` says what is wrong with a sample and where.
  m.def(
      "spanning_tree(Tensor edge_weight, Tensor? edges, SymInt height, SymInt width, Tensor root) -> "
      "(Tensor parent, Tensor order, Tensor fault)");
  // On the CPU, Python makes this operator of spanning_tree and raises an error for a fault.
  m.def(
      "minimum_spanning_tree(Tensor edge_weight, Tensor? edges, SymInt height, SymInt width, Tensor root) -> "
      "(Tensor parent, Tensor order)");
}
