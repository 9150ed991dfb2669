// y = C · LN(h) + D · x for one state a channel, forward and backward, on the CPU.
#include "../state_readout.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "../dispatch.h"

namespace ssm {
namespace {

// Rows are cut into this many pieces, whatever the number of threads, so that sums over rows are always the same.
constexpr int64_t kPieces = 64;
constexpr int64_t kLanes = 16;

template <typename acc>
SSM_INLINE acc sum_of(const acc* value, int64_t count) {
  acc lanes[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] += value[c + i];
  }
  acc sum = 0;
  for (; c < count; ++c) sum += value[c];
  for (int64_t i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

// n = (h - mean) / deviation; `scratch` has the row's length. Returns 1 / deviation.
template <typename state_t, typename acc>
SSM_INLINE acc normalize(const state_t* h, acc* n, acc* scratch, int64_t channels, acc eps) {
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

template <typename scalar_t, typename state_t, typename acc>
SSM_MULTIVERSION void readout_row(const state_t* h, const scalar_t* x, acc C, Parameters<acc> of, scalar_t* y, acc* n,
    acc* scratch, int64_t channels, acc eps) {
  normalize(h, n, scratch, channels, eps);
  for (int64_t c = 0; c < channels; ++c) {
    y[c] = static_cast<scalar_t>(C * (n[c] * of.weight[c] + of.bias[c]) + of.D[c] * static_cast<acc>(x[c]));
  }
}

// Adds what the row gives ∂weight, ∂bias, ∂D to `sums` (three rows); returns ∂C.
template <typename scalar_t, typename state_t, typename acc>
SSM_MULTIVERSION acc readout_backward_row(const scalar_t* grad_y, const state_t* h, const scalar_t* x, acc C,
    Parameters<acc> of, state_t* grad_h, scalar_t* grad_x, acc* sums, acc* work, int64_t channels, acc eps) {
  acc *n = work, *scratch = work + channels, *weighted = work + 2 * channels;
  const acc scale = normalize(h, n, scratch, channels, eps);
  for (int64_t c = 0; c < channels; ++c) {
    const acc g = static_cast<acc>(grad_y[c]);
    grad_x[c] = static_cast<scalar_t>(of.D[c] * g);
    sums[c] += C * g * n[c];
    sums[channels + c] += C * g;
    sums[2 * channels + c] += g * static_cast<acc>(x[c]);
    weighted[c] = g * of.weight[c];
    scratch[c] = g * of.bias[c];
  }
  const acc through_bias = sum_of(scratch, channels), total = sum_of(weighted, channels);
  for (int64_t c = 0; c < channels; ++c) scratch[c] = weighted[c] * n[c];
  const acc along = sum_of(scratch, channels);
  const acc mean = total / channels, slope = along / channels, factor = C * scale;
  for (int64_t c = 0; c < channels; ++c) {
    grad_h[c] = static_cast<state_t>(factor * (weighted[c] - mean - n[c] * slope));
  }
  return through_bias + along;
}

template <typename acc>
Parameters<acc> parameters(const ReadoutInputs& in) {
  return {in.weight.const_data_ptr<acc>(), in.bias.const_data_ptr<acc>(), in.D.const_data_ptr<acc>()};
}

// The state is of the dtype of x, or of what it is computed in.
template <typename Run>
void with_types(const ReadoutInputs& in, Run run) {
  SSM_DISPATCH(in.x.scalar_type(), "state_readout", [&] {
    if (in.h.scalar_type() == in.x.scalar_type()) {
      run(scalar_t(), scalar_t());
    } else {
      run(scalar_t(), acc_t<scalar_t>());
    }
  });
}

at::Tensor state_readout(const at::Tensor& h, const at::Tensor& x, const at::Tensor& C, const at::Tensor& D,
    const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const ReadoutInputs in{h, x, C, D, weight, bias, eps};
  check_readout(in, at::kCPU);
  at::Tensor y = at::empty_like(x);
  const at::Tensor weights = C.contiguous();
  const int64_t channels = x.size(2), rows = x.size(0) * x.size(1);
  with_types(in, [&](auto scalar, auto state) {
    using scalar_t = decltype(scalar);
    using acc = acc_t<scalar_t>;
    const auto* states = h.const_data_ptr<decltype(state)>();
    const auto of = parameters<acc>(in);
    at::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
      std::vector<acc> work(2 * channels);
      for (int64_t row = begin; row < end; ++row) {
        const int64_t at = row * channels;
        readout_row(states + at, x.const_data_ptr<scalar_t>() + at,
            static_cast<acc>(weights.const_data_ptr<scalar_t>()[row]), of, y.mutable_data_ptr<scalar_t>() + at,
            work.data(), work.data() + channels, channels, static_cast<acc>(eps));
      }
    });
  });
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> state_readout_backward(
    const at::Tensor& grad_y, const at::Tensor& h, const at::Tensor& x, const at::Tensor& C, const at::Tensor& D,
    const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const ReadoutInputs in{h, x, C, D, weight, bias, eps};
  check_readout(in, at::kCPU);
  check_gradient(grad_y, in);
  const at::Tensor g = grad_y.contiguous(), weights = C.contiguous();
  at::Tensor grad_h = at::empty_like(h), grad_x = at::empty_like(x), grad_C = at::empty(C.sizes(), C.options());
  const int64_t channels = x.size(2), rows = x.size(0) * x.size(1);
  at::Tensor sums = at::zeros({kPieces, 3, channels}, D.options());
  with_types(in, [&](auto scalar, auto state) {
    using scalar_t = decltype(scalar);
    using state_t = decltype(state);
    using acc = acc_t<scalar_t>;
    const auto of = parameters<acc>(in);
    at::parallel_for(0, kPieces, 1, [&](int64_t begin, int64_t end) {
      std::vector<acc> work(3 * channels);
      for (int64_t piece = begin; piece < end; ++piece) {
        for (int64_t row = rows * piece / kPieces; row < rows * (piece + 1) / kPieces; ++row) {
          const int64_t at = row * channels;
          const acc grad = readout_backward_row(g.const_data_ptr<scalar_t>() + at, h.const_data_ptr<state_t>() + at,
              x.const_data_ptr<scalar_t>() + at, static_cast<acc>(weights.const_data_ptr<scalar_t>()[row]), of,
              grad_h.mutable_data_ptr<state_t>() + at, grad_x.mutable_data_ptr<scalar_t>() + at,
              sums.mutable_data_ptr<acc>() + piece * 3 * channels, work.data(), channels, static_cast<acc>(eps));
          grad_C.mutable_data_ptr<scalar_t>()[row] = static_cast<scalar_t>(grad);
        }
      }
    });
  });
  const at::Tensor total = sums.sum(0);
  return {grad_h, grad_x, grad_C, total[2].clone(), total[0].clone(), total[1].clone()};
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CPU, m) {
  m.impl("state_readout", &state_readout);
  m.impl("state_readout_backward", &state_readout_backward);
}

}  // namespace ssm
