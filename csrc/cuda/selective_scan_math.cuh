// exp, softplus and vector loads of the CUDA scans.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "../scalar.h"

namespace ssm {

template <typename scalar_t, int kVector>
struct alignas(sizeof(scalar_t) * kVector) Pack {
  scalar_t value[kVector];
};

// exp(x · y) with x scaled once by `scale`.
__device__ __forceinline__ float exponent_scale(float) {
  return 1.4426950408889634f;
}
__device__ __forceinline__ double exponent_scale(double) {
  return 1.0;
}

__device__ __forceinline__ float exponential_scaled(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ __forceinline__ double exponential_scaled(double x) {
  return exp(x);
}

// log(1 + e) / e for e in [0, 1]: minimax polynomials with relative error 3e-8 for float, and 9e-6 where inputs
// are half types anyway. The hardware's log2(1 + e) would lose the small steps that models start with.
template <typename scalar_t>
__device__ __forceinline__ float log1p_quotient(float e) {
  float q;
  if constexpr (sizeof(scalar_t) == 2) {
    q = -2.386910409e-02f;
    q = fmaf(q, e, 1.012221653e-01f);
    q = fmaf(q, e, -2.100485849e-01f);
    q = fmaf(q, e, 3.252066425e-01f);
    q = fmaf(q, e, -4.993613600e-01f);
    q = fmaf(q, e, 9.999915981e-01f);
  } else {
    q = 5.232682976e-03f;
    q = fmaf(q, e, -2.950519354e-02f);
    q = fmaf(q, e, 7.822587822e-02f);
    q = fmaf(q, e, -1.366323955e-01f);
    q = fmaf(q, e, 1.910600382e-01f);
    q = fmaf(q, e, -2.484298146e-01f);
    q = fmaf(q, e, 3.331909671e-01f);
    q = fmaf(q, e, -4.999949314e-01f);
    q = fmaf(q, e, 9.999999699e-01f);
  }
  return q;
}

// The exponential's argument is rounded: relative error 2e-7 near 0, growing to 1e-6 at x = -30.
template <typename scalar_t>
__device__ __forceinline__ float softplus(float x) {
  const float e = exponential_scaled(-fabsf(x) * exponent_scale(0.f));
  return fmaf(log1p_quotient<scalar_t>(e), e, fmaxf(x, 0.f));
}
template <typename scalar_t>
__device__ __forceinline__ double softplus(double x) {
  return fmax(x, 0.0) + log1p(exp(-fabs(x)));
}

// Derivative of softplus in terms of its value: 1 - exp(-softplus(x)), without cancellation for small steps.
__device__ __forceinline__ float softplus_slope(float dt) {
  const float series = dt * fmaf(dt, fmaf(dt, fmaf(dt, fmaf(dt, 1.f / 120, -1.f / 24), 1.f / 6), -0.5f), 1.f);
  const float direct = 1.f - exponential_scaled(-dt * exponent_scale(0.f));
  return dt < 0.125f ? series : direct;
}
__device__ __forceinline__ double softplus_slope(double dt) {
  return -expm1(-dt);
}

}  // namespace ssm
