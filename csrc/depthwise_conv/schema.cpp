// Schemas of the depthwise convolution with SiLU.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(ssm_core, m) {
  // x [B, H, W, C]; weight [C, 3, 3]; bias [C] -> y = SiLU(conv(x)), with zeros around the map
  m.def("depthwise_conv(Tensor x, Tensor weight, Tensor? bias) -> Tensor y");
  m.def(
      "depthwise_conv_backward(Tensor grad_y, Tensor x, Tensor weight, Tensor? bias) -> "
      "(Tensor grad_x, Tensor grad_weight, Tensor grad_bias)");
  // The same for the sum of up to three gradients of y. On the CPU, Python adds them up.
  m.def(
      "depthwise_conv_sum_backward(Tensor grad_y, Tensor x, Tensor weight, Tensor? bias, Tensor? second, "
      "Tensor? third) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)");
}
