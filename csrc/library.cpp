// Every operator's schema. Kernels register themselves in cpu/ and cuda/; fake, autograd and autocast rules are in
// Python.
#include <Python.h>
#include <torch/library.h>

TORCH_LIBRARY_FRAGMENT(ssm_core, m) {
  // u [B, G, L, D]; delta [B, K, L, D]; A [K, D, N]; B, C [B, K, L, N]; D, delta_bias [K, D]; order [B, K, L]; reverse
  // [K].
  m.def(
      "selective_scan(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, "
      "Tensor? order, bool[] reverse, bool delta_softplus) -> (Tensor y, Tensor last_state)");
  m.def(
      "selective_scan_backward(Tensor grad_y, Tensor? grad_last_state, Tensor u, Tensor delta, Tensor A, Tensor B, "
      "Tensor C, Tensor? D, Tensor? delta_bias, Tensor? order, bool[] reverse, bool delta_softplus) -> "
      "(Tensor grad_u, Tensor grad_delta, Tensor grad_A, Tensor grad_B, Tensor grad_C, Tensor grad_D, "
      "Tensor grad_delta_bias)");
}

TORCH_LIBRARY_FRAGMENT(quadtree_ssm, m) {
  // choice [B] -> order [B, L]
  m.def(
      "quadtree_order(Tensor choice, SymInt height, SymInt width, int levels, SymInt shift_y, SymInt shift_x) -> "
      "Tensor");
  // a, b [B, L, D] -> gradient of the straight-through mask [B, 4]
  m.def(
      "mask_gradient(Tensor a, Tensor b, Tensor choice, SymInt height, SymInt width, SymInt shift_y, "
      "SymInt shift_x) -> Tensor");
}

TORCH_LIBRARY_FRAGMENT(tree_ssm, m) {
  // edge_weight [B, E], edges [E, 2] or [B, E, 2] or none for the height × width grid, root [B] -> parent, order [B,
  // L]. spanning_tree raises nothing about values: fault [B, 2] says what is wrong and where. minimum_spanning_tree is
  // made of it in Python, and raises.
  m.def(
      "spanning_tree(Tensor edge_weight, Tensor? edges, SymInt height, SymInt width, Tensor root) -> "
      "(Tensor parent, Tensor order, Tensor fault)");
  m.def(
      "minimum_spanning_tree(Tensor edge_weight, Tensor? edges, SymInt height, SymInt width, Tensor root) -> "
      "(Tensor parent, Tensor order)");
  // x [B, H, W, D] -> exp(-cosine) of the ends of the grid's edges [B, E]
  m.def("grid_cosine_distance(Tensor x) -> Tensor");
  // parent [B, L] -> what the GPU's tree scans want to know of a tree, for their forward and backward; int32.
  m.def("tree_schedule(Tensor parent) -> Tensor");
  // u, weight [B, L, D]; parent, order [B, L]; schedule: of the same parents, or none
  m.def(
      "tree_scan(Tensor u, Tensor weight, Tensor parent, Tensor order, bool both, Tensor? schedule=None) -> Tensor h");
  m.def(
      "tree_scan_backward(Tensor grad_h, Tensor u, Tensor weight, Tensor parent, Tensor order, bool both, "
      "Tensor? schedule=None) -> (Tensor grad_u, Tensor grad_weight)");
  // x, delta [B, L, D]; A, delta_bias [D]; B [B, L]; schedule: a walk. For GPUs only: elsewhere it is made of
  // tree_scan.
  m.def(
      "selective_tree_scan(Tensor x, Tensor delta, Tensor A, Tensor B, Tensor delta_bias, Tensor schedule) -> "
      "Tensor h");
  m.def(
      "selective_tree_scan_backward(Tensor grad_h, Tensor x, Tensor delta, Tensor A, Tensor B, Tensor delta_bias, "
      "Tensor schedule) -> (Tensor grad_x, Tensor grad_delta, Tensor grad_A, Tensor grad_B, Tensor grad_delta_bias)");
  // x, delta [B, L, D]; A [D, N]; B, C [B, L, N]; delta_bias [D]; parent, order [B, L]; next: whether an edge has the
  // step of the token after its child, rather than the child's; schedule: for GPUs.
  m.def(
      "selective_subtree_scan(Tensor x, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor delta_bias, Tensor parent, "
      "Tensor order, bool next, Tensor? schedule=None) -> (Tensor y, Tensor root_state)");
  m.def(
      "selective_subtree_scan_backward(Tensor grad_y, Tensor? grad_root_state, Tensor x, Tensor delta, Tensor A, "
      "Tensor B, Tensor C, Tensor delta_bias, Tensor parent, Tensor order, bool next, Tensor? schedule=None) -> "
      "(Tensor grad_x, Tensor grad_delta, Tensor grad_A, Tensor grad_B, Tensor grad_C, Tensor grad_delta_bias)");
  // x, delta [B, L, D]; delta_bias [D]; B [B, L, N]; start, end [B] -> weights of the edges between tokens at distance
  // 1 … reach [B, E]
  m.def(
      "token_distance(Tensor x, Tensor delta, Tensor delta_bias, Tensor B, Tensor start, Tensor end, int reach) -> "
      "Tensor");
  // h, x [B, L, D]; C [B, L]; D, weight, bias [D] -> C · LN(h) + D · x
  m.def("state_readout(Tensor h, Tensor x, Tensor C, Tensor D, Tensor weight, Tensor bias, float eps) -> Tensor y");
  m.def(
      "state_readout_backward(Tensor grad_y, Tensor h, Tensor x, Tensor C, Tensor D, Tensor weight, Tensor bias, "
      "float eps) -> (Tensor grad_h, Tensor grad_x, Tensor grad_C, Tensor grad_D, Tensor grad_weight, "
      "Tensor grad_bias)");
}

// Importing the library as a Python module is enough to load it; the operators live in torch.ops.
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}
