// Vectors of 32 bytes and the few functions that the scans need on them. They are the compiler's vectors (GCC, Clang).
// Where a machine's registers are narrower, the compiler uses two, so that one source serves every clone of a function.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/dispatch.h"

namespace ssm {

constexpr int kVectorBytes = 32;
template <typename acc>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
};
template <typename acc>
using Vec = typename VectorOf<acc>::type;
using FloatVec = Vec<float>;
using DoubleVec = Vec<double>;
typedef int32_t IntVec __attribute__((vector_size(kVectorBytes)));

template <typename acc>
constexpr int kLanesOf = kVectorBytes / sizeof(acc);

template <typename acc>
SSM_INLINE Vec<acc> load(const acc* source) {
  Vec<acc> v;
  std::memcpy(&v, source, sizeof(v));
  return v;
}

template <typename acc>
SSM_INLINE void store(acc* target, Vec<acc> v) {
  std::memcpy(target, &v, sizeof(v));
}

template <typename scalar_t, typename acc, int WIDTH>
SSM_INLINE void load_row(acc (&row)[WIDTH], const scalar_t* source, int width) {
  if (width != WIDTH) {
    for (int c = 0; c < WIDTH; ++c) row[c] = c < width ? static_cast<acc>(source[c]) : acc(0);
  } else if constexpr (std::is_same_v<scalar_t, acc>) {
    // Copies whole vectors. Compilers would copy by 16 bytes, and a wider load after that waits for both halves to
    // reach the cache.
    for (int c = 0; c < WIDTH; c += kLanesOf<acc>) store(row + c, load(source + c));
  } else {
    for (int c = 0; c < WIDTH; ++c) row[c] = static_cast<acc>(source[c]);
  }
}

template <typename scalar_t, typename acc, int WIDTH>
SSM_INLINE void store_row(scalar_t* target, const acc (&row)[WIDTH], int width) {
  if (width != WIDTH) {
    for (int c = 0; c < width; ++c) target[c] = static_cast<scalar_t>(row[c]);
  } else if constexpr (std::is_same_v<scalar_t, acc>) {
    for (int c = 0; c < WIDTH; c += kLanesOf<acc>) store(target + c, load(row + c));
  } else {
    for (int c = 0; c < WIDTH; ++c) target[c] = static_cast<scalar_t>(row[c]);
  }
}

// Sums a row in an order that does not depend on the vector width, so that results do not depend on the machine.
template <typename acc, int WIDTH>
SSM_INLINE acc sum_row(const acc (&row)[WIDTH]) {
  acc partial[WIDTH / 2];
  for (int c = 0; c < WIDTH / 2; ++c) partial[c] = row[c] + row[c + WIDTH / 2];
  for (int half = WIDTH / 4; half > 0; half /= 2) {
    for (int c = 0; c < half; ++c) partial[c] += partial[c + half];
  }
  return partial[0];
}

// The same for a row in registers.
template <int VECTORS>
SSM_INLINE float sum_row(FloatVec (&row)[VECTORS]) {
  for (int half = VECTORS / 2; half > 0; half /= 2) {
    for (int v = 0; v < half; ++v) row[v] += row[v + half];
  }
  const auto four =
      __builtin_shufflevector(row[0], row[0], 0, 1, 2, 3) + __builtin_shufflevector(row[0], row[0], 4, 5, 6, 7);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

template <int VECTORS>
SSM_INLINE double sum_row(DoubleVec (&row)[VECTORS]) {
  for (int half = VECTORS / 2; half > 0; half /= 2) {
    for (int v = 0; v < half; ++v) row[v] += row[v + half];
  }
  return (row[0][0] + row[0][2]) + (row[0][1] + row[0][3]);
}

// e^x for -87.3 ≤ x ≤ 88 or NaN, with a relative error below 2e-7. e^x = 2^n·e^r with |r| ≤ ln2/2: a minimax polynomial
// gives (e^r - 1 - r)/r², and 2^n is made of its exponent's bits.
SSM_INLINE FloatVec exponential_within_range(FloatVec x) {
  // Adding 1.5·2^23 rounds a number to an integer. With 127 more, the lowest bits of the sum are the exponent of 2^n.
  constexpr float kRound = 12582912.0f + 127.0f;
  const FloatVec shifted = x * 1.44269504088896341f + kRound;
  const FloatVec n = shifted - kRound;
  const FloatVec scale = (FloatVec)((IntVec)shifted << 23);
  const FloatVec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const FloatVec r2 = r * r;
  FloatVec p = 8.36874515e-3f + r * 1.38145357e-3f;
  p = (0.499999934f + r * 0.166665204f) + r2 * (4.16683909e-2f + r * p);
  return (r + r2 * p) * scale + scale;
}

// e^x, which saturates at 2^±126 instead of overflowing or becoming subnormal.
SSM_INLINE FloatVec exponential(FloatVec x) {
  float lane[kLanesOf<float>];
  store(lane, x);
  for (float& v : lane) {
    v = v < -87.3f ? -87.3f : v;
    v = v > 88.0f ? 88.0f : v;
  }
  return exponential_within_range(load(lane));
}

SSM_INLINE DoubleVec exponential(DoubleVec x) {
  for (int i = 0; i < kLanesOf<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

// log(1 + e) for 0 ≤ e ≤ 1, as e times a minimax polynomial in e - 1/2 (relative error 3e-8), which keeps the relative
// precision of small results. Its terms are added in pairs, so that few of them wait for one another.
SSM_INLINE FloatVec log_of_one_plus(FloatVec e) {
  const FloatVec z = e - 0.5f, z2 = z * z, z4 = z2 * z2;
  const FloatVec low = (0.810930219f - z * 0.288526665f) + z2 * (0.132609085f - z * 6.77114442e-2f);
  const FloatVec high = (3.66338534e-2f - z * 2.02282703e-2f) + z2 * (1.15865191e-2f - z * 8.57440482e-3f);
  return e * (low + z4 * (high + z4 * 5.23260733e-3f));
}

// softplus(x) = max(x, 0) + log(1 + e), and this is e = exp(-|x|). Floats without a sign have the order of their bits
// as integers. A minimum of integers is one instruction, that of floats is two, because of NaN. NaN reaches the result
// through max(x, 0).
SSM_INLINE FloatVec decaying_part(FloatVec x) {
  constexpr int32_t kSign = INT32_MIN, kBitsOf87 = 0x42ae999a;  // 87.3
  int32_t lane[kLanesOf<float>];
  const IntVec size = (IntVec)x & ~kSign;
  std::memcpy(lane, &size, sizeof(lane));
  for (int32_t& v : lane) v = v < kBitsOf87 ? v : kBitsOf87;
  IntVec within;
  std::memcpy(&within, lane, sizeof(lane));
  return exponential_within_range((FloatVec)(within | kSign));
}
SSM_INLINE FloatVec softplus(FloatVec x, FloatVec e) {
  float lane[kLanesOf<float>];
  store(lane, x);
  for (float& v : lane) v = v < 0.0f ? 0.0f : v;
  return load(lane) + log_of_one_plus(e);
}

SSM_INLINE DoubleVec decaying_part(DoubleVec x) {
  for (int i = 0; i < kLanesOf<double>; ++i) x[i] = std::exp(-std::fabs(x[i]));
  return x;
}
SSM_INLINE DoubleVec softplus(DoubleVec x, DoubleVec e) {
  for (int i = 0; i < kLanesOf<double>; ++i) x[i] = (x[i] > 0 ? x[i] : 0.0) + std::log1p(e[i]);
  return x;
}

// The derivative of softplus, made of the same e.
template <typename acc>
SSM_INLINE Vec<acc> sigmoid(Vec<acc> x, Vec<acc> e) {
  acc sign[kLanesOf<acc>], lane[kLanesOf<acc>];
  store(sign, x);
  store(lane, e);
  for (int i = 0; i < kLanesOf<acc>; ++i) lane[i] = sign[i] > acc(0) ? acc(1) : lane[i];
  return load(lane) / (e + acc(1));
}

}  // namespace ssm
