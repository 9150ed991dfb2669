// Schemas of the first half of the stem: a convolution of images, a layer norm and GELU.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(ssm_core, m) {
  // images [B, 3, H, W]; weight [C, 3, 3, 3]; bias, norm_weight and norm_bias [C]
  // -> y [B, ceil(H / 2), ceil(W / 2), C] = GELU(LN(conv(images))), with stride 2 and padding 1
  m.def(
      "conv_norm_gelu(Tensor images, Tensor weight, Tensor bias, Tensor norm_weight, Tensor norm_bias, float eps) -> "
      "Tensor y");
  m.def(
      "conv_norm_gelu_backward(Tensor grad_y, Tensor images, Tensor weight, Tensor bias, Tensor norm_weight, "
      "Tensor norm_bias, float eps) -> "
      "(Tensor grad_weight, Tensor grad_bias, Tensor grad_norm_weight, Tensor grad_norm_bias)");
}
