// GELU as the MLP's kernels compute it.
#pragma once

#include "common/cuda/math.cuh"

namespace ssm {

// Φ(-z) = exp(-z²/2) · Σ c_k t^k with t = 1 / (1 + p z), for z ≥ 0: the formula and the numbers of
// ssm_core/layers/gelu.py, whose largest relative error is 4e-5.
struct Normal {
  float tail, bell;  // Φ(-|u|) and exp(-u²/2)
};

__device__ __forceinline__ Normal normal_tail(float u) {
  const float t = reciprocal(fmaf(0.38219307838557454f, fabsf(u), 1.f));
  const float bell = power_of_two(u * u * static_cast<float>(-0.5 * kLog2E));
  float total = -0.0893035313f;
  total = fmaf(total, t, 0.183392239f);
  total = fmaf(total, t, 0.0958773102f);
  total = fmaf(total, t, 0.157840282f);
  total = fmaf(total, t, 0.152173843f);
  return {total * t * bell, bell};
}

// u Φ(u) = max(u, 0) - |u| Φ(-|u|)
__device__ __forceinline__ float gelu(float u, const Normal& normal) {
  return fmaf(-fabsf(u), normal.tail, fmaxf(u, 0.f));
}

// The same in units in which exp(-u²/2) is 2^(-v²), for two numbers that share a reciprocal. A kernel multiplies its
// sums of the results by 1 / kGeluUnit. With z t = (1 - t) / p, |u| Φ(-|u|) is a polynomial of t times the bell.
constexpr float kGeluUnit = 0.84932180028801907f;  // √(log₂ e / 2)

__device__ __forceinline__ float gelu_of_parts(float v, float t) {
  constexpr double kScale = 0.84932180028801907 / 0.38219307838557454;
  constexpr double kFactors[] = {0.152173843, 0.157840282, 0.0958773102, 0.183392239, -0.0893035313};
  float total = static_cast<float>(kScale * -kFactors[4]);
#pragma unroll
  for (int i = 4; i > 0; --i) total = fmaf(total, t, static_cast<float>(kScale * (kFactors[i] - kFactors[i - 1])));
  total = fmaf(total, t, static_cast<float>(kScale * kFactors[0]));
  return fmaf(-total, power_of_two(-v * v), fmaxf(v, 0.f));
}

__device__ __forceinline__ float2 gelu_in_units(float v, float w) {
  constexpr float kSlope = static_cast<float>(0.38219307838557454 / 0.84932180028801907);
  const float a = fmaf(kSlope, fabsf(v), 1.f), b = fmaf(kSlope, fabsf(w), 1.f);
  const float both = reciprocal(a * b);
  return make_float2(gelu_of_parts(v, both * b), gelu_of_parts(w, both * a));
}

// Φ(u) + u φ(u)
__device__ __forceinline__ float gelu_slope(float u, const Normal& normal) {
  constexpr float kScale = 0.39894228040143268f;  // 1 / √(2π)
  const float below = u > 0.f ? 1.f - normal.tail : normal.tail;
  return fmaf(u * kScale, normal.bell, below);
}

}  // namespace ssm
