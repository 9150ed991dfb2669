// Host side of the state's readout on the GPU.
#include "state_readout/inputs.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "common/dispatch.h"
#include "state_readout/cuda/launch.h"

namespace ssm {
namespace {

ReadoutLaunch describe(const ReadoutInputs& in) {
  ReadoutLaunch p{};
  p.h = in.h.const_data_ptr();
  p.x = in.x.const_data_ptr();
  p.C = in.C.const_data_ptr();
  p.D = in.D.const_data_ptr();
  p.weight = in.weight.const_data_ptr();
  p.bias = in.bias.const_data_ptr();
  p.rows = in.x.size(0) * in.x.size(1);
  p.length = in.x.size(1);
  p.channels = static_cast<int>(in.x.size(2));
  p.C_batch_stride = in.C.stride(0);
  p.C_token_stride = in.C.stride(1);
  p.eps = in.eps;
  return p;
}

// Chooses the team; whether all tensors' rows can be held in fours, the widest vectors.
bool share_rows(ReadoutLaunch& p, at::ArrayRef<at::Tensor> tensors) {
  bool fours = p.channels % kFours.width == 0 && kFours.team(p.channels) != 0;
  for (const at::Tensor& tensor : tensors) {
    const auto bytes = std::min<size_t>(kFours.width * tensor.element_size(), 16);
    fours = fours && reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % bytes == 0;
  }
  p.team = (fours ? kFours : kOnes).team(p.channels);
  TORCH_CHECK(p.team != 0, "state_readout: at most ", kReadoutThreads * kOnes.width * kOnes.items, " channels, or ",
      kReadoutThreads * kFours.width * kFours.items, " in fours; got ", p.channels);
  return fours;
}

at::Tensor state_readout(const at::Tensor& h, const at::Tensor& x, const at::Tensor& C, const at::Tensor& D,
    const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const ReadoutInputs in{h, x, C, D, weight, bias, eps};
  check_readout(in, at::kCUDA);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor y = at::empty_like(x);
  if (x.numel() == 0) return y;
  ReadoutLaunch p = describe(in);
  p.y = y.mutable_data_ptr();
  const bool fours = share_rows(p, {h, x});
  const int64_t blocks = readout_blocks(p, 4096);
  SSM_DISPATCH(x.scalar_type(), "state_readout", [&] { launch_readout<scalar_t>(p, fours, blocks); });
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> state_readout_backward(
    const at::Tensor& grad_y, const at::Tensor& h, const at::Tensor& x, const at::Tensor& C, const at::Tensor& D,
    const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const ReadoutInputs in{h, x, C, D, weight, bias, eps};
  check_readout(in, at::kCUDA);
  const at::Tensor g = grad_y.contiguous();
  check_gradient(g, in);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor grad_h = at::empty_like(h), grad_x = at::empty_like(x);
  at::Tensor grad_C = at::empty(C.sizes(), C.options());
  if (x.numel() == 0) return {grad_h, grad_x, grad_C.zero_(), at::zeros_like(D), at::zeros_like(D), at::zeros_like(D)};
  ReadoutLaunch p = describe(in);
  p.grad_y = g.const_data_ptr();
  p.grad_h = grad_h.mutable_data_ptr();
  p.grad_x = grad_x.mutable_data_ptr();
  p.grad_C = grad_C.mutable_data_ptr();
  const bool fours = share_rows(p, {h, x, g});
  // The number of blocks, and so the order of the sums, depends on the shape alone.
  const int64_t blocks = readout_blocks(p, 528);
  const at::Tensor partial = at::empty({blocks, kReadoutParameters, p.channels}, D.options());
  p.partial = partial.mutable_data_ptr();
  SSM_DISPATCH(x.scalar_type(), "state_readout_backward", [&] { launch_readout_backward<scalar_t>(p, fours, blocks); });
  const at::Tensor sums = partial.sum(0);
  return {grad_h, grad_x, grad_C, sums[2].clone(), sums[0].clone(), sums[1].clone()};
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("state_readout", &state_readout);
  m.impl("state_readout_backward", &state_readout_backward);
}

}  // namespace ssm
