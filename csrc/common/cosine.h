// The measure of what lies between the two ends of an edge: exp(-cosine).
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cmath>

namespace ssm {

// 1 / |x| of |x|². The norm is at least 1e-8, as with torch's clamp_min(1e-8), so that the result stays finite.
template <typename acc>
C10_HOST_DEVICE acc inverse_norm(acc square) {
  const acc norm = std::sqrt(square), least = acc(1e-8);
  return 1 / (norm > least ? norm : least);
}

template <typename acc>
C10_HOST_DEVICE acc exp_minus_cosine(acc dot, acc inverse_a, acc inverse_b) {
  return std::exp(-dot * inverse_a * inverse_b);
}

}  // namespace ssm
