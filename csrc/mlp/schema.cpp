// Schemas of the MLP.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(ssm_core, m) {
  // x [T, C]; weight1 [H, C]; bias1 [H]; weight2 [C, H]; bias2 [C] -> y = W2 GELU(W1 x + b1) + b2
  m.def("mlp(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2) -> Tensor y");
  // h is GELU's result and grad_u the gradient of its argument: the factors of the weights' gradients.
  m.def(
      "mlp_backward(Tensor grad_y, Tensor x, Tensor weight1, Tensor bias1, Tensor weight2) -> "
      "(Tensor grad_x, Tensor h, Tensor grad_u, Tensor grad_bias1)");
}
