// Schemas of the selective scan.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(ssm_core, m) {
  // u [B, G, L, D]; delta [B, K, L, D]; A [K, D, N]; B, C [B, K, L, N]; D, delta_bias [K, D]; order [B, K, L];
  // reverse [K] -> y [B, G, L, D]; last_state [B, K, D, N]. K is a multiple of G.
  m.def(
      "selective_scan(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, "
      "Tensor? order, bool[] reverse, bool delta_softplus) -> (Tensor y, Tensor last_state)");
  m.def(
      "selective_scan_backward(Tensor grad_y, Tensor? grad_last_state, Tensor u, Tensor delta, Tensor A, Tensor B, "
      "Tensor C, Tensor? D, Tensor? delta_bias, Tensor? order, bool[] reverse, bool delta_softplus) -> "
      "(Tensor grad_u, Tensor grad_delta, Tensor grad_A, Tensor grad_B, Tensor grad_C, Tensor grad_D, "
      "Tensor grad_delta_bias)");
}
