// exp, softplus and the logistic function as the CUDA kernels compute them.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/scalar.h"

namespace ssm {

// The unit in which a kernel counts Δ. B is counted in its inverse, since only their product matters. For half types
// the unit is ln 2: then exp(Δ·A) is 2^(Δ·A), and softplus needs no scaling. For float it is 1, since one more rounding
// would show.
template <typename scalar_t>
constexpr acc_t<scalar_t> kUnit = sizeof(scalar_t) == 2 ? 0.69314718055994531 : 1;
constexpr double kLog2E = 1.4426950408889634;

__device__ __forceinline__ float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ __forceinline__ float reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ __forceinline__ double reciprocal(double x) {
  return 1 / x;
}

// Makes the compiler compute again what it has computed from x, instead of keeping it in registers.
__device__ __forceinline__ void forget(float& x) {
  asm volatile("" : "+f"(x));
}
__device__ __forceinline__ void forget(double& x) {
  asm volatile("" : "+d"(x));
}

// The rate by which a step is multiplied to become the exponent that `decay` takes.
template <typename scalar_t>
__device__ __forceinline__ acc_t<scalar_t> decay_rate(acc_t<scalar_t> A) {
  return sizeof(scalar_t) == 4 ? A * static_cast<acc_t<scalar_t>>(kLog2E) : A;
}
__device__ __forceinline__ float decay(float exponent) {
  return power_of_two(exponent);
}
__device__ __forceinline__ double decay(double exponent) {
  return exp(exponent);
}

// x + bias in units of Δ. `bias` is in these units already.
template <typename scalar_t>
__device__ __forceinline__ acc_t<scalar_t> biased(acc_t<scalar_t> x, acc_t<scalar_t> bias) {
  if constexpr (sizeof(scalar_t) == 2) {
    return fmaf(x, static_cast<float>(kLog2E), bias);
  } else {
    return x + bias;
  }
}

// log(1 + e) / e for e in [0, 1], in units of Δ: minimax polynomials with a relative error of 3e-8 for float, and of
// 6e-5 for half types. The hardware's log2(1 + e) would lose the small steps that models start with.
template <typename scalar_t>
__device__ __forceinline__ float log1p_quotient(float e) {
  float q;
  if constexpr (sizeof(scalar_t) == 2) {
    q = 5.965155388e-02f;
    q = fmaf(q, e, -2.271194724e-01f);
    q = fmaf(q, e, 4.418988543e-01f);
    q = fmaf(q, e, -7.169874232e-01f);
    q = fmaf(q, e, 1.442613209e+00f);
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

// Softplus; argument and result are in units of Δ. The exponential's argument is rounded, so that the relative error in
// float is 2e-7 near 0 and grows to 1e-6 at x = -30.
template <typename scalar_t>
__device__ __forceinline__ acc_t<scalar_t> softplus(acc_t<scalar_t> x) {
  if constexpr (sizeof(scalar_t) == 8) {
    return fmax(x, 0.0) + log1p(exp(-fabs(x)));
  } else {
    const float scale = sizeof(scalar_t) == 2 ? 1.f : static_cast<float>(kLog2E);
    const float e = power_of_two(-fabsf(x) * scale);
    return fmaf(log1p_quotient<scalar_t>(e), e, fmaxf(x, 0.f));
  }
}

// The logistic function. For half types it has a relative error of 1e-6 at |x| = 10.
template <typename scalar_t>
__device__ __forceinline__ acc_t<scalar_t> logistic(acc_t<scalar_t> x) {
  if constexpr (sizeof(scalar_t) == 2) {
    return reciprocal(1.f + power_of_two(x * -static_cast<float>(kLog2E)));
  } else {
    return 1 / (1 + exp(-x));
  }
}

// The derivative of softplus, over the unit, made of softplus's value dt: (1 - exp(-dt)) / unit, without cancellation
// for small steps.
template <typename scalar_t>
__device__ __forceinline__ acc_t<scalar_t> softplus_slope(acc_t<scalar_t> dt) {
  if constexpr (sizeof(scalar_t) == 8) {
    return -expm1(-dt);
  } else if constexpr (sizeof(scalar_t) == 2) {
    constexpr float kLn2 = kUnit<scalar_t>;
    const float series = dt * fmaf(dt, fmaf(dt, kLn2 * kLn2 / 6, -kLn2 / 2), 1.f);
    const float direct = fmaf(power_of_two(-dt), -static_cast<float>(kLog2E), static_cast<float>(kLog2E));
    return dt < 0.125f ? series : direct;
  } else {
    const float series = dt * fmaf(dt, fmaf(dt, fmaf(dt, fmaf(dt, 1.f / 120, -1.f / 24), 1.f / 6), -0.5f), 1.f);
    const float direct = 1.f - power_of_two(-dt * static_cast<float>(kLog2E));
    return dt < 0.125f ? series : direct;
  }
}

}  // namespace ssm
