// exp(-cosine) of the inputs Δ·x ⊗ B of tokens that are at most kReach apart, on the GPU.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "../checks.h"
#include "../dispatch.h"
#include "../grid_distance.h"
#include "../tree_scan.h"
#include "selective_scan_math.cuh"
#include "warp_sums.cuh"

namespace ssm {
namespace {

constexpr int kReach = 3;
constexpr int kTokens = 7;               // of a warp, whose sums are then 7 · 3 products and 10 squares
constexpr int kRows = kTokens + kReach;  // it reads those behind them, too
constexpr int kProducts = kTokens * kReach;
constexpr int kSums = 32;
constexpr int kWarps = 4;
constexpr double kNever = 4;  // heavier than any exp(-cosine) <= e
static_assert(kProducts + kRows <= kSums);

struct DistanceLaunch {
  int64_t batch, length, channels, states, edges;
  int reach;
  const void *x, *delta, *B;
  VertexStrides x_stride, delta_stride, B_stride;
  const void* delta_bias;
  const int64_t *start, *end;
  void* out;
};

// Products of a warp's tokens with those behind them, and the squares of all its rows, over its threads' channels.
template <typename scalar_t, int kVector>
__device__ void add_products(const DistanceLaunch& l, int64_t sample, int64_t first, acc_t<scalar_t> (&sums)[kSums]) {
  using acc = acc_t<scalar_t>;
  using Row = Pack<scalar_t, kVector>;
  const auto row = [&](const void* base, const VertexStrides& stride, int r, int64_t channel) {
    const int64_t token = min(first + r, l.length - 1);
    const scalar_t* const at = static_cast<const scalar_t*>(base) + sample * stride.batch + token * stride.vertex;
    return *reinterpret_cast<const Row*>(at + channel);
  };
  for (int64_t channel = threadIdx.x % 32 * kVector; channel < l.channels; channel += 32 * kVector) {
    acc bias[kVector], v[kRows][kVector];
#pragma unroll
    for (int c = 0; c < kVector; ++c) {
      bias[c] = static_cast<const acc*>(l.delta_bias)[channel + c] / kUnit<scalar_t>;
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const Row x = row(l.x, l.x_stride, r, channel), delta = row(l.delta, l.delta_stride, r, channel);
#pragma unroll
      for (int c = 0; c < kVector; ++c) {
        const acc step = softplus<scalar_t>(biased<scalar_t>(static_cast<acc>(delta.value[c]), bias[c]));
        v[r][c] = step * static_cast<acc>(x.value[c]);
        sums[kProducts + r] += v[r][c] * v[r][c];
#pragma unroll
        for (int k = 1; k <= kReach; ++k) {
          if (r - k >= 0 && r - k < kTokens) sums[(r - k) * kReach + k - 1] += v[r - k][c] * v[r][c];
        }
      }
    }
  }
}

// Cosine of B at two tokens.
template <typename scalar_t>
__device__ acc_t<scalar_t> weight_cosine(const DistanceLaunch& l, int64_t sample, int64_t a, int64_t b) {
  using acc = acc_t<scalar_t>;
  const scalar_t* const B = static_cast<const scalar_t*>(l.B) + sample * l.B_stride.batch;
  const scalar_t *const at_a = B + a * l.B_stride.vertex, *const at_b = B + b * l.B_stride.vertex;
  acc product = 0, square_a = 0, square_b = 0;
  for (int64_t n = 0; n < l.states; ++n) {
    const acc p = static_cast<acc>(at_a[n]), q = static_cast<acc>(at_b[n]);
    product += p * q;
    square_a += p * p;
    square_b += q * q;
  }
  return product * inverse_norm(square_a) * inverse_norm(square_b);
}

template <typename scalar_t, int kVector>
__global__ void __launch_bounds__(32 * kWarps) token_distance_kernel(const __grid_constant__ DistanceLaunch l) {
  using acc = acc_t<scalar_t>;
  const int64_t runs = (l.length + kTokens - 1) / kTokens;
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (warp >= l.batch * runs) return;
  const int lane = threadIdx.x % 32;
  const int64_t sample = warp / runs, first = warp % runs * kTokens;
  acc sums[kSums] = {};
  add_products<scalar_t, kVector>(l, sample, first, sums);
  const acc sum = sum_over_warp(sums);
  const int place = min(lane / kReach, kTokens - 1), distance = lane % kReach + 1;
  const acc square_a = __shfl_sync(~0u, sum, kProducts + place);
  const acc square_b = __shfl_sync(~0u, sum, kProducts + place + distance);
  const int64_t a = first + place, b = a + distance;
  if (lane >= kProducts || distance > l.reach || b >= l.length) return;
  const bool within = a >= l.start[sample] && b < l.end[sample];
  acc weight = distance == 1 ? acc(0) : acc(kNever);
  if (within) {
    const acc scale = inverse_norm(square_a) * inverse_norm(square_b);
    weight = std::exp(-sum * scale * weight_cosine<scalar_t>(l, sample, a, b));
  }
  const int64_t earlier = (distance - 1) * l.length - distance * (distance - 1) / 2;  // edges between nearer tokens
  static_cast<acc*>(l.out)[sample * l.edges + earlier + a] = weight;
}

at::Tensor token_distance(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& delta_bias,
    const at::Tensor& B, const at::Tensor& start, const at::Tensor& end, int64_t reach) {
  const c10::cuda::CUDAGuard guard(x.device());
  TORCH_CHECK(x.dim() == 3 && x.size(1) >= 1, "x must be [B, L, D] with L at least 1, got ", x.sizes());
  TORCH_CHECK(reach >= 1 && reach <= kReach, "reach must be 1 to ", kReach, ", got ", reach);
  const int64_t batch = x.size(0), length = x.size(1), channels = x.size(2);
  const auto accumulate = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  check_shape(delta, x.sizes(), "delta");
  check_dtype(delta, x.scalar_type(), "delta");
  check_shape(delta_bias, {channels}, "delta_bias");
  check_dtype(delta_bias, accumulate, "delta_bias");
  TORCH_CHECK(B.dim() == 3 && B.size(0) == batch && B.size(1) == length, "B must be [B, L, N], got ", B.sizes());
  check_dtype(B, x.scalar_type(), "B");
  for (const auto& place : {start, end}) {
    check_shape(place, {batch}, "start and end");
    check_dtype(place, at::kLong, "start and end");
  }
  for (const auto& tensor : {x, delta, delta_bias, B, start, end}) {
    check_device(tensor, at::kCUDA, x, "x, delta, delta_bias, B, start and end");
  }
  const int64_t furthest = std::min(reach, length - 1), edges = furthest * length - furthest * (furthest + 1) / 2;
  at::Tensor out = at::empty({batch, edges}, x.options().dtype(accumulate));
  if (out.numel() == 0) return out;
  const auto adjacent = [](const at::Tensor& t) { return t.stride(2) == 1 || t.size(2) == 1 ? t : t.contiguous(); };
  const auto strides = [](const at::Tensor& t) { return VertexStrides{t.stride(0), t.stride(1)}; };
  const at::Tensor inputs = adjacent(x), steps = adjacent(delta), weights = adjacent(B);
  const at::Tensor bias = delta_bias.contiguous(), begins = start.contiguous(), ends = end.contiguous();
  const DistanceLaunch l{batch, length, channels, B.size(2), edges, static_cast<int>(reach), inputs.const_data_ptr(),
      steps.const_data_ptr(), weights.const_data_ptr(), strides(inputs), strides(steps), strides(weights),
      bias.const_data_ptr(), begins.const_data_ptr<int64_t>(), ends.const_data_ptr<int64_t>(), out.data_ptr()};
  const int64_t warps = batch * ((length + kTokens - 1) / kTokens), blocks = (warps + kWarps - 1) / kWarps;
  TORCH_CHECK(blocks < (int64_t(1) << 31), "the input is too large for one launch");
  SSM_DISPATCH(x.scalar_type(), "token_distance", [&] {
    constexpr int kWide = sizeof(scalar_t) == 2 ? 4 : 16 / sizeof(scalar_t);
    const auto fits = [&](const at::Tensor& t) {
      return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0 && t.stride(0) % kWide == 0 &&
             t.stride(1) % kWide == 0 && channels % kWide == 0;
    };
    auto* const kernel =
        fits(inputs) && fits(steps) ? token_distance_kernel<scalar_t, kWide> : token_distance_kernel<scalar_t, 1>;
    kernel<<<static_cast<unsigned>(blocks), 32 * kWarps, 0, at::cuda::getCurrentCUDAStream()>>>(l);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("token_distance", &token_distance);
}

}  // namespace ssm
