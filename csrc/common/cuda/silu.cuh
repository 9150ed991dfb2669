// SiLU and its derivative.
#pragma once

#include "common/cuda/math.cuh"

namespace ssm {

// silu(z) = z σ(z) and silu'(z) = σ(z) (1 + z (1 - σ(z))), in the precision of scalar_t's logistic function.
template <typename scalar_t>
struct Silu {
  using acc = acc_t<scalar_t>;
  acc value, slope;

  __device__ __forceinline__ explicit Silu(acc z) {
    const acc open = logistic<scalar_t>(z);
    value = z * open;
    slope = open + value * (1 - open);
  }
};

}  // namespace ssm
