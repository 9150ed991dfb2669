// One row of y = C · LN(h) + D · x, forward and backward, on the CPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/cpu/lanes.h"
#include "common/scalar.h"
#include "state_readout/params.h"

namespace ssm {
namespace {

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

template <typename scalar_t>
const scalar_t* row_of(const void* map, int64_t row, int64_t channels) {
  return static_cast<const scalar_t*>(map) + row * channels;
}
template <typename scalar_t>
scalar_t* row_of(void* map, int64_t row, int64_t channels) {
  return static_cast<scalar_t*>(map) + row * channels;
}

template <typename scalar_t>
acc_t<scalar_t> output_weight(const ReadoutParams& p, int64_t row) {
  return static_cast<acc_t<scalar_t>>(static_cast<const scalar_t*>(p.C)[p.C_of(row)]);
}

// Rows of acc that the two functions below work in.
constexpr int64_t kReadoutWork = 2, kReadoutBackwardWork = 3;

// Computes a row of the result into `y`.
template <typename scalar_t, typename acc>
void readout_row(const ReadoutParams& p, int64_t row, scalar_t* y, acc* work) {
  readout_row(row_of<scalar_t>(p.h, row, p.channels), row_of<scalar_t>(p.x, row, p.channels),
      output_weight<scalar_t>(p, row), parameters<acc>(p), y, work, work + p.channels, p.channels,
      static_cast<acc>(p.eps));
}

// Computes a row of the gradients of h, x and C, given that of the result. Adds what the row gives to those of the
// parameters to `sums`.
template <typename scalar_t, typename acc>
void readout_backward_row(const ReadoutParams& p, int64_t row, const scalar_t* grad_y, acc* sums, acc* work) {
  const acc grad_C =
      readout_backward_row(grad_y, row_of<scalar_t>(p.h, row, p.channels), row_of<scalar_t>(p.x, row, p.channels),
          output_weight<scalar_t>(p, row), parameters<acc>(p), row_of<scalar_t>(p.grad_h, row, p.channels),
          row_of<scalar_t>(p.grad_x, row, p.channels), sums, work, p.channels, static_cast<acc>(p.eps));
  static_cast<scalar_t*>(p.grad_C)[row] = static_cast<scalar_t>(grad_C);
}

}  // namespace
}  // namespace ssm
