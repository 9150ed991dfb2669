// Schemas of the norms over channels.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(ssm_core, m) {
  // x [B, L, C]; weight, bias [C] -> y = norm(x) in `dtype`. `centred` takes the mean off: layer norm. Else RMS norm.
  m.def("norm(Tensor x, Tensor weight, Tensor? bias, float eps, bool centred, ScalarType dtype) -> Tensor y");
  // grad_more [B, L, C] is added to the gradient of x.
  m.def(
      "norm_backward(Tensor grad_y, Tensor? grad_more, Tensor x, Tensor weight, float eps, bool centred) -> "
      "(Tensor grad_x, Tensor grad_weight, Tensor grad_bias)");
  // x, gate [B, L, C], of one type; weight, bias [C] -> y = norm(x) · silu(gate) in that type
  m.def("gated_norm(Tensor x, Tensor gate, Tensor weight, Tensor? bias, float eps, bool centred) -> Tensor y");
  m.def(
      "gated_norm_backward(Tensor grad_y, Tensor x, Tensor gate, Tensor weight, Tensor? bias, float eps, bool centred) "
      "-> (Tensor grad_x, Tensor grad_gate, Tensor grad_weight, Tensor grad_bias)");
  // x, residual [B, L, C]; scale [B] -> stream = residual + scale · x, and y = norm(stream) in `dtype`
  m.def(
      "residual_norm(Tensor x, Tensor residual, Tensor? scale, Tensor weight, Tensor? bias, float eps, bool centred, "
      "ScalarType dtype) -> (Tensor y, Tensor stream)");
  // grad_x has the type `dtype`, which is that of x.
  m.def(
      "residual_norm_backward(Tensor grad_y, Tensor? grad_stream, Tensor stream, Tensor? scale, Tensor weight, "
      "float eps, bool centred, ScalarType dtype) -> "
      "(Tensor grad_x, Tensor grad_residual, Tensor grad_weight, Tensor grad_bias)");
}
