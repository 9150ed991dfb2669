// Schemas of the state's readout with a gated norm.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(tree_ssm, m) {
  // h, x [B, L, D]; C [B, L]; D, weight, bias [D]; gate [B, L, D]; out_weight, out_bias [D]
  // -> y = LN(r) · silu(gate) [B, L, D] with r = C · LN(h) + D · x. The second norm has out_weight, out_bias, out_eps.
  m.def(
      "gated_state_readout(Tensor h, Tensor x, Tensor C, Tensor D, Tensor weight, Tensor bias, float eps, Tensor gate, "
      "Tensor out_weight, Tensor out_bias, float out_eps) -> Tensor y");
  m.def(
      "gated_state_readout_backward(Tensor grad_y, Tensor h, Tensor x, Tensor C, Tensor D, Tensor weight, Tensor bias, "
      "float eps, Tensor gate, Tensor out_weight, Tensor out_bias, float out_eps) -> (Tensor grad_h, Tensor grad_x, "
      "Tensor grad_C, Tensor grad_D, Tensor grad_weight, Tensor grad_bias, Tensor grad_gate, Tensor grad_out_weight, "
      "Tensor grad_out_bias)");
}
