// y = LN(C · LN(h) + D · x) · silu(gate) for one state a channel, forward and backward, on the CPU. A row goes through
// the readout and then through the gated norm, so that the readout's map stays in the cache.

#include <algorithm>
#include <vector>

#include "common/cpu/pieces.h"
#include "gated_state_readout/inputs.h"
#include "norm/cpu/rows.h"
#include "state_readout/cpu/rows.h"

namespace ssm {
namespace {

// What the gated norm gets for one row, the readout's `r`. Its maps begin at the row.
template <typename scalar_t>
NormParams norm_of(const GatedReadoutParams& p, int64_t row, const scalar_t* r) {
  NormParams norm{};
  norm.x = norm.kept_stream = r;
  norm.gate = static_cast<const scalar_t*>(p.gate) + row * p.gate_stride;
  norm.weight = p.out_weight;
  norm.bias = p.out_bias;
  norm.rows = norm.sample_rows = 1;
  norm.channels = p.channels;
  norm.eps = p.out_eps;
  norm.centred = true;
  return norm;
}

template <typename scalar_t>
void forward_row(const GatedReadoutParams& p, int64_t row, scalar_t* r, acc_t<scalar_t>* work) {
  readout_row(p, row, r, work);
  NormParams norm = norm_of(p, row, r);
  norm.y = row_of<scalar_t>(p.y, row, p.channels);
  norm_row<scalar_t>(norm, 0, work);
}

// `r` has two rows: the readout and its gradient. Adds what the row gives to the parameters' gradients to `sums`.
template <typename scalar_t>
void backward_row(const GatedReadoutParams& p, int64_t row, scalar_t* r, acc_t<scalar_t>* sums, acc_t<scalar_t>* work) {
  scalar_t* const grad_r = r + p.channels;
  readout_row(p, row, r, work);
  NormParams norm = norm_of(p, row, r);
  norm.grad_y = row_of<scalar_t>(p.grad_y, row, p.channels);
  norm.grad_residual = grad_r;
  norm.grad_gate = row_of<scalar_t>(p.grad_gate, row, p.channels);
  norm_backward_row<scalar_t>(norm, 0, sums + kReadoutParameters * p.channels, work);
  readout_backward_row<scalar_t>(p, row, grad_r, sums, work);
}

Tensor gated_state_readout(const Tensor& h, const Tensor& x, const Tensor& C, const Tensor& D, const Tensor& weight,
    const Tensor& bias, double eps, const Tensor& gate, const Tensor& out_weight, const Tensor& out_bias,
    double out_eps) {
  GatedReadoutInputs inputs(kCPU, h, x, C, D, weight, bias, eps, gate, out_weight, out_bias, out_eps);
  GatedReadoutParams& p = inputs.params;
  Tensor y = empty(x.sizes(), x);
  p.y = y.mutable_data_ptr();
  SSM_DISPATCH(x.scalar_type(), "gated_state_readout", [&] {
    torch::stable::parallel_for(0, p.rows, 64, [&](int64_t begin, int64_t end) {
      std::vector<acc_t<scalar_t>> work(std::max(kReadoutWork, kNormWork) * p.channels);
      std::vector<scalar_t> r(p.channels);
      for (int64_t row = begin; row < end; ++row) forward_row(p, row, r.data(), work.data());
    });
  });
  return y;
}

GatedReadoutGradients::Results gated_state_readout_backward(const Tensor& grad_y, const Tensor& h, const Tensor& x,
    const Tensor& C, const Tensor& D, const Tensor& weight, const Tensor& bias, double eps, const Tensor& gate,
    const Tensor& out_weight, const Tensor& out_bias, double out_eps) {
  GatedReadoutInputs inputs(kCPU, h, x, C, D, weight, bias, eps, gate, out_weight, out_bias, out_eps);
  GatedReadoutParams& p = inputs.params;
  GatedReadoutGradients g(grad_y, x, C, D, p);
  const int64_t pieces = pieces_of(p.rows);
  Tensor sums = zeros({pieces, kGatedReadoutParameters, p.channels}, D);
  SSM_DISPATCH(x.scalar_type(), "gated_state_readout_backward", [&] {
    using acc = acc_t<scalar_t>;
    torch::stable::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
      std::vector<acc> work(std::max(kReadoutBackwardWork, kNormBackwardWork) * p.channels);
      std::vector<scalar_t> r(2 * p.channels);
      for (int64_t piece = begin; piece < end; ++piece) {
        acc* const own = sums.mutable_data_ptr<acc>() + piece * kGatedReadoutParameters * p.channels;
        for (int64_t row = first_row(p.rows, piece, pieces); row < first_row(p.rows, piece + 1, pieces); ++row) {
          backward_row(p, row, r.data(), own, work.data());
        }
      }
    });
  });
  const Tensor total = sum_parts(sums);
  for (int k = 0; k < kGatedReadoutParameters; ++k) g.parameters[k] = torch::stable::clone(part(total, k));
  return g.results();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CPU, m) {
  m.impl("gated_state_readout", TORCH_BOX(&gated_state_readout));
  m.impl("gated_state_readout_backward", TORCH_BOX(&gated_state_readout_backward));
}

}  // namespace ssm
