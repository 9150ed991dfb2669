// Host side of the state's readout with a gated norm on the GPU.

#include "common/cuda/device.h"
#include "common/dispatch.h"
#include "gated_state_readout/cuda/launch.h"
#include "gated_state_readout/inputs.h"

namespace ssm {
namespace {

// Chooses how threads hold a row: in fours, the widest vectors, if all tensors allow it.
GatedReadoutLaunch launch_of(const GatedReadoutParams& params, int64_t item, int64_t most_blocks) {
  GatedReadoutLaunch p{params};
  const int width = kGatedReadoutFours.width;
  p.fours = p.channels % width == 0 && p.gate_stride % width == 0 && p.channels <= kGatedReadoutMostFours;
  for (const void* data : {p.h, p.x, p.gate, p.grad_y}) p.fours = p.fours && in_vectors(data, width, item);
  p.team = (p.fours ? kGatedReadoutFours : kGatedReadoutOnes).team(p.channels);
  SSM_CHECK(p.team != 0, "gated_state_readout: at most ", kGatedReadoutOnes.most_channels(), " channels, or ",
      kGatedReadoutMostFours, " in fours; got ", p.channels);
  p.blocks = blocks_of_rows(p.rows, kGatedReadoutThreads, p.team, most_blocks);
  return p;
}

Tensor gated_state_readout(const Tensor& h, const Tensor& x, const Tensor& C, const Tensor& D, const Tensor& weight,
    const Tensor& bias, double eps, const Tensor& gate, const Tensor& out_weight, const Tensor& out_bias,
    double out_eps) {
  GatedReadoutInputs inputs(kCUDA, h, x, C, D, weight, bias, eps, gate, out_weight, out_bias, out_eps);
  const DeviceGuard guard(x.get_device_index());
  Tensor y = empty(x.sizes(), x);
  if (x.numel() == 0) return y;
  inputs.params.y = y.mutable_data_ptr();
  const auto launch = launch_of(inputs.params, x.element_size(), multiprocessors() * kGatedReadoutMinBlocks);
  SSM_DISPATCH(x.scalar_type(), "gated_state_readout", [&] { launch_gated_readout<scalar_t>(launch); });
  return y;
}

GatedReadoutGradients::Results gated_state_readout_backward(const Tensor& grad_y, const Tensor& h, const Tensor& x,
    const Tensor& C, const Tensor& D, const Tensor& weight, const Tensor& bias, double eps, const Tensor& gate,
    const Tensor& out_weight, const Tensor& out_bias, double out_eps) {
  GatedReadoutInputs inputs(kCUDA, h, x, C, D, weight, bias, eps, gate, out_weight, out_bias, out_eps);
  const DeviceGuard guard(x.get_device_index());
  GatedReadoutGradients g(grad_y, x, C, D, inputs.params);
  if (x.numel() == 0) {
    g.maps.grad_C = zeros(C.sizes(), C);
    for (Tensor& parameter : g.parameters) parameter = zeros(D.sizes(), D);
    return g.results();
  }
  auto launch = launch_of(inputs.params, x.element_size(), multiprocessors() * kGatedReadoutBackwardMinBlocks);
  const Tensor partial = empty({launch.blocks, kGatedReadoutParameters, launch.channels}, D);
  launch.partial = partial.mutable_data_ptr();
  for (int k = 0; k < kGatedReadoutParameters; ++k) launch.grad_parameters[k] = g.parameters[k].mutable_data_ptr();
  SSM_DISPATCH(
      x.scalar_type(), "gated_state_readout_backward", [&] { launch_gated_readout_backward<scalar_t>(launch); });
  return g.results();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("gated_state_readout", TORCH_BOX(&gated_state_readout));
  m.impl("gated_state_readout_backward", TORCH_BOX(&gated_state_readout_backward));
}

}  // namespace ssm
