// Scalar types and vector widths of the host's kernels.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/checks.h"
#include "common/scalar.h"

// Half types are read and written as they are and computed in float. Double is computed in double, so that gradcheck
// runs on the kernel itself.
#define SSM_DISPATCH(TYPE, NAME, ...)                                                                      \
  [&](ScalarType ssm_type) {                                                                               \
    const auto ssm_run = [&](auto ssm_zero) {                                                              \
      using scalar_t = decltype(ssm_zero);                                                                 \
      __VA_ARGS__();                                                                                       \
    };                                                                                                     \
    switch (ssm_type) {                                                                                    \
      case kDouble:                                                                                        \
        return ssm_run(double());                                                                          \
      case kFloat:                                                                                         \
        return ssm_run(float());                                                                           \
      case kHalf:                                                                                          \
        return ssm_run(c10::Half());                                                                       \
      case kBFloat16:                                                                                      \
        return ssm_run(c10::BFloat16());                                                                   \
      default:                                                                                             \
        SSM_CHECK(false, NAME, " takes tensors of float64, float32, float16 or bfloat16, got ", ssm_type); \
    }                                                                                                      \
  }(TYPE)

namespace ssm {

// Calls `run` with a zero of the tensor's type, which is one of the two half types.
template <typename Run>
void with_half_type(const Tensor& x, const Run& run) {
  if (x.scalar_type() == kHalf) {
    run(c10::Half());
  } else {
    run(c10::BFloat16());
  }
}

}  // namespace ssm

// GCC on x86-64 compiles the function three times, for different vector widths, and picks one when the library is
// loaded. Other compilers use the baseline.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define SSM_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SSM_MULTIVERSION
#endif
#define SSM_INLINE inline __attribute__((always_inline))
