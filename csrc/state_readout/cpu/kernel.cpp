// y = C · LN(h) + D · x for one state a channel, forward and backward, on the CPU.

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/cpu/lanes.h"
#include "state_readout/inputs.h"

namespace ssm {
namespace {

// Rows are cut into pieces. Their number depends on that of the rows and not on the threads, so that sums over rows
// always have the same order.
constexpr int64_t kMostPieces = 64, kRowsOfPiece = 64;

// n = (h - mean) / deviation; `scratch` has the row's length. Returns 1 / deviation.
template <typename scalar_t, typename acc>
SSM_INLINE acc normalize(
    const scalar_t* __restrict__ h, acc* __restrict__ n, acc* __restrict__ scratch, int64_t channels, acc eps) {
  for (int64_t c = 0; c < channels; ++c) n[c] = static_cast<acc>(h[c]);
  const acc mean = sum_of(n, channels) / channels;
  for (int64_t c = 0; c < channels; ++c) {
    n[c] -= mean;
    scratch[c] = n[c] * n[c];
  }
  const acc scale = acc(1) / std::sqrt(sum_of(scratch, channels) / channels + eps);
  for (int64_t c = 0; c < channels; ++c) n[c] *= scale;
  return scale;
}

template <typename acc>
struct Parameters {
  const acc *weight, *bias, *D;
};

template <typename scalar_t, typename acc>
SSM_MULTIVERSION void readout_row(const scalar_t* __restrict__ h, const scalar_t* __restrict__ x, acc C,
    Parameters<acc> of, scalar_t* __restrict__ y, acc* __restrict__ n, acc* __restrict__ scratch, int64_t channels,
    acc eps) {
  normalize(h, n, scratch, channels, eps);
  const acc* __restrict__ weight = of.weight, * __restrict__ bias = of.bias, * __restrict__ D = of.D;
  for (int64_t c = 0; c < channels; ++c) {
    y[c] = static_cast<scalar_t>(C * (n[c] * weight[c] + bias[c]) + D[c] * static_cast<acc>(x[c]));
  }
}

// Adds what the row gives to ∂weight, ∂bias and ∂D to `sums`, which has three rows, and returns ∂C. `work` has three
// rows.
template <typename scalar_t, typename acc>
SSM_MULTIVERSION acc readout_backward_row(const scalar_t* __restrict__ grad_y, const scalar_t* __restrict__ h,
    const scalar_t* __restrict__ x, acc C, Parameters<acc> of, scalar_t* __restrict__ grad_h,
    scalar_t* __restrict__ grad_x, acc* sums, acc* work, int64_t channels, acc eps) {
  acc* __restrict__ n = work, * __restrict__ scratch = work + channels, * __restrict__ weighted = work + 2 * channels;
  acc* __restrict__ sum_weight = sums, * __restrict__ sum_bias = sums + channels, * __restrict__ sum_D = sums + 2 * channels;
  const acc* __restrict__ weight = of.weight, * __restrict__ bias = of.bias, * __restrict__ D = of.D;
  const acc scale = normalize(h, n, scratch, channels, eps);
  for (int64_t c = 0; c < channels; ++c) {
    const acc g = static_cast<acc>(grad_y[c]);
    grad_x[c] = static_cast<scalar_t>(D[c] * g);
    sum_D[c] += g * static_cast<acc>(x[c]);
    scratch[c] = g * bias[c];
    weighted[c] = g * weight[c];
  }
  for (int64_t c = 0; c < channels; ++c) {
    const acc g = C * static_cast<acc>(grad_y[c]);
    sum_bias[c] += g;
    sum_weight[c] += g * n[c];
  }
  const acc through_bias = sum_of(scratch, channels), total = sum_of(weighted, channels);
  for (int64_t c = 0; c < channels; ++c) scratch[c] = weighted[c] * n[c];
  const acc along = sum_of(scratch, channels);
  const acc mean = total / channels, slope = along / channels, factor = C * scale;
  for (int64_t c = 0; c < channels; ++c) {
    grad_h[c] = static_cast<scalar_t>(factor * (weighted[c] - mean - n[c] * slope));
  }
  return through_bias + along;
}

template <typename acc>
Parameters<acc> parameters(const ReadoutParams& p) {
  return {static_cast<const acc*>(p.weight), static_cast<const acc*>(p.bias), static_cast<const acc*>(p.D)};
}

Tensor state_readout(const Tensor& h, const Tensor& x, const Tensor& C, const Tensor& D, const Tensor& weight,
    const Tensor& bias, double eps) {
  ReadoutParams p = readout_params(kCPU, h, x, C, D, weight, bias, eps);
  Tensor y = empty(x.sizes(), x);
  p.y = y.mutable_data_ptr();
  SSM_DISPATCH(x.scalar_type(), "state_readout", [&] {
    using acc = acc_t<scalar_t>;
    const auto of = parameters<acc>(p);
    torch::stable::parallel_for(0, p.rows, 64, [&](int64_t begin, int64_t end) {
      std::vector<acc> work(int64_t{2} * p.channels);
      for (int64_t row = begin; row < end; ++row) {
        const int64_t at = row * p.channels;
        readout_row(static_cast<const scalar_t*>(p.h) + at, static_cast<const scalar_t*>(p.x) + at,
            static_cast<acc>(static_cast<const scalar_t*>(p.C)[p.C_of(row)]), of, static_cast<scalar_t*>(p.y) + at,
            work.data(), work.data() + p.channels, p.channels, static_cast<acc>(p.eps));
      }
    });
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> state_readout_backward(const Tensor& grad_y, const Tensor& h,
    const Tensor& x, const Tensor& C, const Tensor& D, const Tensor& weight, const Tensor& bias, double eps) {
  ReadoutParams p = readout_params(kCPU, h, x, C, D, weight, bias, eps);
  const ReadoutGradients g(grad_y, x, C, p);
  const int64_t pieces = std::clamp<int64_t>(p.rows / kRowsOfPiece, 1, kMostPieces);
  Tensor sums = zeros({pieces, kReadoutParameters, p.channels}, D);
  SSM_DISPATCH(x.scalar_type(), "state_readout_backward", [&] {
    using acc = acc_t<scalar_t>;
    const auto of = parameters<acc>(p);
    torch::stable::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
      std::vector<acc> work(int64_t{3} * p.channels);
      for (int64_t piece = begin; piece < end; ++piece) {
        acc* const own = sums.mutable_data_ptr<acc>() + piece * kReadoutParameters * p.channels;
        for (int64_t row = p.rows * piece / pieces; row < p.rows * (piece + 1) / pieces; ++row) {
          const int64_t at = row * p.channels;
          const acc grad = readout_backward_row(static_cast<const scalar_t*>(p.grad_y) + at,
              static_cast<const scalar_t*>(p.h) + at, static_cast<const scalar_t*>(p.x) + at,
              static_cast<acc>(static_cast<const scalar_t*>(p.C)[p.C_of(row)]), of,
              static_cast<scalar_t*>(p.grad_h) + at, static_cast<scalar_t*>(p.grad_x) + at, own, work.data(),
              p.channels, static_cast<acc>(p.eps));
          static_cast<scalar_t*>(p.grad_C)[row] = static_cast<scalar_t>(grad);
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
