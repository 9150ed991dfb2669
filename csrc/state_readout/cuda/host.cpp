// Host side of the state's readout on the GPU.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "common/dispatch.h"
#include "state_readout/cuda/launch.h"
#include "state_readout/inputs.h"

namespace ssm {
namespace {

// Chooses the threads of a row; returns whether all tensors' rows can be held in fours, the widest vectors.
bool share_rows(ReadoutLaunch& p, int64_t item) {
  bool fours = p.channels % kFours.width == 0 && kFours.team(p.channels) != 0;
  for (const void* data : {p.h, p.x, p.grad_y}) {
    const auto bytes = static_cast<uintptr_t>(std::min<int64_t>(kFours.width * item, 16));
    fours = fours && reinterpret_cast<uintptr_t>(data) % bytes == 0;
  }
  p.team = (fours ? kFours : kOnes).team(p.channels);
  TORCH_CHECK(p.team != 0, "state_readout: at most ", kOnes.most_channels(), " channels, or ", kFours.most_channels(),
      " in fours; got ", p.channels);
  return fours;
}

at::Tensor state_readout(const at::Tensor& h, const at::Tensor& x, const at::Tensor& C, const at::Tensor& D,
    const at::Tensor& weight, const at::Tensor& bias, double eps) {
  ReadoutLaunch p{readout_params(at::kCUDA, h, x, C, D, weight, bias, eps), 0, nullptr};
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor y = at::empty_like(x);
  if (x.numel() == 0) return y;
  p.y = y.mutable_data_ptr();
  const bool fours = share_rows(p, x.element_size());
  const int64_t blocks = readout_blocks(p, kReadoutBlocks);
  SSM_DISPATCH(x.scalar_type(), "state_readout", [&] { launch_readout<scalar_t>(p, fours, blocks); });
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> state_readout_backward(
    const at::Tensor& grad_y, const at::Tensor& h, const at::Tensor& x, const at::Tensor& C, const at::Tensor& D,
    const at::Tensor& weight, const at::Tensor& bias, double eps) {
  ReadoutLaunch p{readout_params(at::kCUDA, h, x, C, D, weight, bias, eps), 0, nullptr};
  const c10::cuda::CUDAGuard guard(x.device());
  const ReadoutGradients g(grad_y, x, C, p);
  if (x.numel() == 0) {
    g.grad_C.zero_();
    return {g.grad_h, g.grad_x, g.grad_C, at::zeros_like(D), at::zeros_like(D), at::zeros_like(D)};
  }
  const bool fours = share_rows(p, x.element_size());
  const int64_t blocks = readout_blocks(p, kReadoutBackwardBlocks);
  const at::Tensor partial = at::empty({blocks, kReadoutParameters, p.channels}, D.options());
  p.partial = partial.mutable_data_ptr();
  SSM_DISPATCH(x.scalar_type(), "state_readout_backward", [&] { launch_readout_backward<scalar_t>(p, fours, blocks); });
  const at::Tensor sums = partial.sum(0);
  return {
      g.grad_h, g.grad_x, g.grad_C, sums.select(0, 2).clone(), sums.select(0, 0).clone(), sums.select(0, 1).clone()};
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("state_readout", &state_readout);
  m.impl("state_readout_backward", &state_readout_backward);
}

}  // namespace ssm
