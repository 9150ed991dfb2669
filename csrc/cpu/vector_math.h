// Rows of WIDTH channels and the few functions the scans need on them, written so that compilers vectorise the loops.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../dispatch.h"

namespace ssm {

template <typename scalar_t, typename acc, int WIDTH>
SSM_INLINE void load_row(acc (&row)[WIDTH], const scalar_t* source, int width) {
  if (width == WIDTH) {
    for (int c = 0; c < WIDTH; ++c) row[c] = static_cast<acc>(source[c]);
  } else {
    for (int c = 0; c < WIDTH; ++c) row[c] = c < width ? static_cast<acc>(source[c]) : acc(0);
  }
}

template <typename scalar_t, typename acc, int WIDTH>
SSM_INLINE void store_row(scalar_t* target, const acc (&row)[WIDTH], int width) {
  if (width == WIDTH) {
    for (int c = 0; c < WIDTH; ++c) target[c] = static_cast<scalar_t>(row[c]);
  } else {
    for (int c = 0; c < width; ++c) target[c] = static_cast<scalar_t>(row[c]);
  }
}

// Sum over the row in a fixed tree order: independent of the vector width, so results do not depend on the machine.
template <typename acc, int WIDTH>
SSM_INLINE acc sum_row(const acc (&row)[WIDTH]) {
  acc partial[WIDTH / 2];
  for (int c = 0; c < WIDTH / 2; ++c) partial[c] = row[c] + row[c + WIDTH / 2];
  for (int half = WIDTH / 4; half > 0; half /= 2) {
    for (int c = 0; c < half; ++c) partial[c] += partial[c + half];
  }
  return partial[0];
}

SSM_INLINE double exponential(double x) {
  return std::exp(x);
}

// Cephes' expf: x = n·ln2 + r, a polynomial in r, the exponent by its bits; relative error below 2e-7. It saturates at
// 2^±126 instead of overflowing or going subnormal.
SSM_INLINE float exponential(float x) {
  x = x < -87.3f ? -87.3f : x;
  x = x > 88.0f ? 88.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5·2^23: adding and subtracting it rounds to the nearest integer
  const float n = (x * 1.44269504088896341f + kRound) - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof(scale));
  return p * scale;
}

SSM_INLINE double softplus(double x) {
  return (x > 0 ? x : 0.0) + std::log1p(std::exp(-std::fabs(x)));
}

// max(x, 0) + log1p(e), e = exp(-|x|) ≤ 1, with log1p(e) = 2·artanh(s), s = e / (2 + e) ≤ 1/3: its series converges to
// float precision in seven terms, and keeps the relative precision of small results that log(1 + e) loses.
SSM_INLINE float softplus(float x) {
  const float e = exponential(-std::fabs(x));
  const float s = e / (2.0f + e);
  const float q = s * s;
  float p = 1.0f / 13.0f;
  p = p * q + 1.0f / 11.0f;
  p = p * q + 1.0f / 9.0f;
  p = p * q + 1.0f / 7.0f;
  p = p * q + 1.0f / 5.0f;
  p = p * q + 1.0f / 3.0f;
  p = p * q + 1.0f;
  return (x > 0.0f ? x : 0.0f) + 2.0f * s * p;
}

}  // namespace ssm
