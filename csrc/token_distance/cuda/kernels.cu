// exp(-cosine) of the inputs Δ·x ⊗ B of tokens that are at most kReach apart, on the GPU.
#include "common/cosine.h"
#include "common/cuda/launch.h"
#include "common/cuda/math.cuh"
#include "common/cuda/reduce.cuh"
#include "common/pack.h"
#include "token_distance/cuda/launch.h"
#include "token_distance/cuda/tuning.h"

namespace ssm {
namespace {

constexpr double kNever = 4;  // heavier than any exp(-cosine) <= e

// Sums, over a thread's channels, the products of a warp's tokens with those behind them, and the squares of all rows.
template <typename scalar_t, int kVector>
__device__ void add_products(
    const TokenDistanceParams& l, int64_t sample, int64_t first, acc_t<scalar_t> (&sums)[kRunSums]) {
  using acc = acc_t<scalar_t>;
  using Row = Pack<scalar_t, kVector>;
  const auto row = [&](const void* base, const VertexStrides& stride, int r, int64_t channel) {
    const int64_t token = min(first + r, l.length - 1);
    const scalar_t* const at = static_cast<const scalar_t*>(base) + sample * stride.batch + token * stride.vertex;
    return *reinterpret_cast<const Row*>(at + channel);
  };
  for (int64_t channel = threadIdx.x % 32 * kVector; channel < l.channels; channel += 32 * kVector) {
    acc bias[kVector], v[kRunRows][kVector];
#pragma unroll
    for (int c = 0; c < kVector; ++c) {
      bias[c] = static_cast<const acc*>(l.delta_bias)[channel + c] / kUnit<scalar_t>;
    }
#pragma unroll
    for (int r = 0; r < kRunRows; ++r) {
      const Row x = row(l.x, l.x_stride, r, channel), delta = row(l.delta, l.delta_stride, r, channel);
#pragma unroll
      for (int c = 0; c < kVector; ++c) {
        const acc step = softplus<scalar_t>(biased<scalar_t>(static_cast<acc>(delta.value[c]), bias[c]));
        v[r][c] = step * static_cast<acc>(x.value[c]);
        sums[kProducts + r] += v[r][c] * v[r][c];
#pragma unroll
        for (int k = 1; k <= kReach; ++k) {
          if (r - k >= 0 && r - k < kRunTokens) sums[(r - k) * kReach + k - 1] += v[r - k][c] * v[r][c];
        }
      }
    }
  }
}

// Cosine of B at two tokens.
template <typename scalar_t>
__device__ acc_t<scalar_t> weight_cosine(const TokenDistanceParams& l, int64_t sample, int64_t a, int64_t b) {
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
__global__ void __launch_bounds__(32 * kTokenWarps, token_min_blocks(sizeof(scalar_t)))
    token_distance_kernel(const __grid_constant__ TokenDistanceParams l) {
  using acc = acc_t<scalar_t>;
  const int64_t runs = (l.length + kRunTokens - 1) / kRunTokens;
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kTokenWarps + threadIdx.x / 32;
  if (warp >= l.batch * runs) return;
  const int lane = threadIdx.x % 32;
  const int64_t sample = warp / runs, first = warp % runs * kRunTokens;
  acc sums[kRunSums] = {};
  add_products<scalar_t, kVector>(l, sample, first, sums);
  const acc sum = sums_over_warp(sums);
  const int place = min(lane / kReach, kRunTokens - 1), distance = lane % kReach + 1;
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

}  // namespace

template <typename scalar_t>
void launch_token_distance(const TokenDistanceParams& l) {
  constexpr int kWide = sizeof(scalar_t) == 2 ? 4 : 16 / sizeof(scalar_t);
  const int64_t warps = l.batch * ((l.length + kRunTokens - 1) / kRunTokens),
                blocks = (warps + kTokenWarps - 1) / kTokenWarps;
  const auto fits = [&](const void* base, const VertexStrides& stride) {
    return reinterpret_cast<uintptr_t>(base) % 16 == 0 && stride.batch % kWide == 0 && stride.vertex % kWide == 0 &&
           l.channels % kWide == 0;
  };
  auto* const kernel = fits(l.x, l.x_stride) && fits(l.delta, l.delta_stride) ? token_distance_kernel<scalar_t, kWide>
                                                                              : token_distance_kernel<scalar_t, 1>;
  const dim3 grid(grid_blocks(blocks, "token_distance"));
  launch_kernel("token_distance", kernel, {grid, dim3(32 * kTokenWarps), 0, 1, current_stream()}, l);
}

template void launch_token_distance<double>(const TokenDistanceParams&);
template void launch_token_distance<float>(const TokenDistanceParams&);
template void launch_token_distance<c10::Half>(const TokenDistanceParams&);
template void launch_token_distance<c10::BFloat16>(const TokenDistanceParams&);

}  // namespace ssm
