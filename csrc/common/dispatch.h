// Scalar types and vector widths of the host's kernels.
#pragma once

#include <ATen/Dispatch.h>

#include "common/scalar.h"

// Half types are read and written as they are and computed in float. Double is computed in double, so that gradcheck
// runs on the kernel itself.
#define SSM_DISPATCH(TYPE, NAME, ...) AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, TYPE, NAME, __VA_ARGS__)

// GCC on x86-64 compiles the function three times, for different vector widths, and picks one when the library is
// loaded. Other compilers use the baseline.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define SSM_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SSM_MULTIVERSION
#endif
#define SSM_INLINE inline __attribute__((always_inline))
