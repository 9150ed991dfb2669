// The sigmoid, of which SiLU and its derivative are made, as GPU kernels compute it.
#pragma once

#include "common/cuda/math.cuh"

namespace ssm {

__device__ __forceinline__ float reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// 1 / (1 + exp(-x)). In float32 the relative error is below 1e-6 where the sigmoid is not tiny.
__device__ __forceinline__ float sigmoid(float x) {
  return reciprocal(1.f + power_of_two(x * -static_cast<float>(kLog2E)));
}
__device__ __forceinline__ double sigmoid(double x) {
  return 1 / (1 + exp(-x));
}

}  // namespace ssm
