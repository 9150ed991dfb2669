// The 4-connected grid's edges, and the measure of what lies between the ends of an edge.
#pragma once

#include <c10/macros/Macros.h>

#include <cmath>
#include <cstdint>

namespace ssm {

// Vertical edges first, by their upper end, then horizontal ones, by their left end; both row by row.
struct Grid {
  int64_t height, width;

  C10_HOST_DEVICE int64_t vertical() const { return (height - 1) * width; }
  C10_HOST_DEVICE int64_t edges() const { return vertical() + height * (width - 1); }
};

// 1 / |x| of |x|², kept from infinity as torch's clamp_min(1e-8) does.
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
