// y = C · LN(h) + D · x for one state a channel, forward and backward, on the CPU.

#include <vector>

#include "common/cpu/pieces.h"
#include "state_readout/cpu/rows.h"
#include "state_readout/inputs.h"

namespace ssm {
namespace {

Tensor state_readout(const Tensor& h, const Tensor& x, const Tensor& C, const Tensor& D, const Tensor& weight,
    const Tensor& bias, double eps) {
  ReadoutParams p = readout_params(kCPU, h, x, C, D, weight, bias, eps);
  Tensor y = empty(x.sizes(), x);
  p.y = y.mutable_data_ptr();
  SSM_DISPATCH(x.scalar_type(), "state_readout", [&] {
    using acc = acc_t<scalar_t>;
    torch::stable::parallel_for(0, p.rows, 64, [&](int64_t begin, int64_t end) {
      std::vector<acc> work(kReadoutWork * p.channels);
      for (int64_t row = begin; row < end; ++row) {
        readout_row(p, row, row_of<scalar_t>(p.y, row, p.channels), work.data());
      }
    });
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> state_readout_backward(const Tensor& grad_y, const Tensor& h,
    const Tensor& x, const Tensor& C, const Tensor& D, const Tensor& weight, const Tensor& bias, double eps) {
  ReadoutParams p = readout_params(kCPU, h, x, C, D, weight, bias, eps);
  const ReadoutGradients g(grad_y, x, C, p);
  const int64_t pieces = pieces_of(p.rows);
  Tensor sums = zeros({pieces, kReadoutParameters, p.channels}, D);
  SSM_DISPATCH(x.scalar_type(), "state_readout_backward", [&] {
    using acc = acc_t<scalar_t>;
    torch::stable::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
      std::vector<acc> work(kReadoutBackwardWork * p.channels);
      for (int64_t piece = begin; piece < end; ++piece) {
        acc* const own = sums.mutable_data_ptr<acc>() + piece * kReadoutParameters * p.channels;
        for (int64_t row = first_row(p.rows, piece, pieces); row < first_row(p.rows, piece + 1, pieces); ++row) {
          readout_backward_row(p, row, row_of<scalar_t>(p.grad_y, row, p.channels), own, work.data());
        }
      }
    });
  });
  const Tensor total = sum_parts(sums);
  return {g.grad_h, g.grad_x, g.grad_C, torch::stable::clone(part(total, 2)), torch::stable::clone(part(total, 0)),
      torch::stable::clone(part(total, 1))};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CPU, m) {
  m.impl("state_readout", TORCH_BOX(&state_readout));
  m.impl("state_readout_backward", TORCH_BOX(&state_readout_backward));
}

}  // namespace ssm
