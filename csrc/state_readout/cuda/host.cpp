// Host side of the state's readout on the GPU.

#include "common/cuda/device.h"
#include "common/dispatch.h"
#include "state_readout/cuda/launch.h"
#include "state_readout/inputs.h"

namespace ssm {
namespace {

// Chooses the threads of a row; returns whether all tensors' rows can be held in fours, the widest vectors.
bool share_rows(ReadoutLaunch& p, int64_t item) {
  bool fours = p.channels % kFours.width == 0 && kFours.team(p.channels) != 0;
  for (const void* data : {p.h, p.x, p.grad_y}) fours = fours && in_vectors(data, kFours.width, item);
  p.team = (fours ? kFours : kOnes).team(p.channels);
  SSM_CHECK(p.team != 0, "state_readout: at most ", kOnes.most_channels(), " channels, or ", kFours.most_channels(),
      " in fours; got ", p.channels);
  return fours;
}

Tensor state_readout(const Tensor& h, const Tensor& x, const Tensor& C, const Tensor& D, const Tensor& weight,
    const Tensor& bias, double eps) {
  ReadoutLaunch p{readout_params(kCUDA, h, x, C, D, weight, bias, eps)};
  const DeviceGuard guard(x.get_device_index());
  Tensor y = empty(x.sizes(), x);
  if (x.numel() == 0) return y;
  p.y = y.mutable_data_ptr();
  const bool fours = share_rows(p, x.element_size());
  const int64_t blocks = readout_blocks(p, multiprocessors() * kReadoutMinBlocks);
  SSM_DISPATCH(x.scalar_type(), "state_readout", [&] { launch_readout<scalar_t>(p, fours, blocks); });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> state_readout_backward(const Tensor& grad_y, const Tensor& h,
    const Tensor& x, const Tensor& C, const Tensor& D, const Tensor& weight, const Tensor& bias, double eps) {
  ReadoutLaunch p{readout_params(kCUDA, h, x, C, D, weight, bias, eps)};
  const DeviceGuard guard(x.get_device_index());
  const ReadoutGradients g(grad_y, x, C, p);
  if (x.numel() == 0) {
    return {g.grad_h, g.grad_x, zeros(C.sizes(), C), zeros(D.sizes(), D), zeros(D.sizes(), D), zeros(D.sizes(), D)};
  }
  const bool fours = share_rows(p, x.element_size());
  const int64_t blocks = readout_blocks(p, multiprocessors() * kReadoutBackwardMinBlocks);
  const Tensor partial = empty({blocks, kReadoutParameters, p.channels}, D);
  p.partial = partial.mutable_data_ptr();
  const Tensor grad_weight = empty(D.sizes(), D), grad_bias = empty(D.sizes(), D), grad_D = empty(D.sizes(), D);
  p.grad_weight = grad_weight.mutable_data_ptr();
  p.grad_bias = grad_bias.mutable_data_ptr();
  p.grad_D = grad_D.mutable_data_ptr();
  SSM_DISPATCH(x.scalar_type(), "state_readout_backward", [&] { launch_readout_backward<scalar_t>(p, fours, blocks); });
  return {g.grad_h, g.grad_x, g.grad_C, grad_D, grad_weight, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("state_readout", TORCH_BOX(&state_readout));
  m.impl("state_readout_backward", TORCH_BOX(&state_readout_backward));
}

}  // namespace ssm
