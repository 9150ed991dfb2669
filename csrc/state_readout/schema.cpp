// Schemas of the state's readout.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(tree_ssm, m) {
  // h, x [B, L, D]; C [B, L]; D, weight, bias [D] -> y = C · LN(h) + D · x [B, L, D]
  m.def("state_readout(Tensor h, Tensor x, Tensor C, Tensor D, Tensor weight, Tensor bias, float eps) -> Tensor y");
  m.def(
      "state_readout_backward(Tensor grad_y, Tensor h, Tensor x, Tensor C, Tensor D, Tensor weight, Tensor bias, "
      "float eps) -> (Tensor grad_h, Tensor grad_x, Tensor grad_C, Tensor grad_D, Tensor grad_weight, "
      "Tensor grad_bias)");
}
