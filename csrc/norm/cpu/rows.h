// One row of the norms over channels, forward and backward, on the CPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "common/cpu/lanes.h"
#include "common/cpu/vector_math.h"
#include "norm/params.h"

namespace ssm {
namespace {

// Rows of acc that the functions for a row work in.
constexpr int64_t kNormWork = 4, kNormBackwardWork = 11;

// A row in acc: where it is, if that is its type, or else as `copy`, which has the row's length.
template <typename scalar_t, typename acc>
SSM_INLINE const acc* read(const void* base, bool wide, int64_t at, acc* __restrict__ copy, int64_t channels) {
  if constexpr (!std::is_same_v<scalar_t, acc>) {
    if (!wide) {
      const scalar_t* __restrict__ in = static_cast<const scalar_t*>(base) + at;
      for (int64_t c = 0; c < channels; ++c) copy[c] = static_cast<acc>(in[c]);
      return copy;
    }
  }
  return static_cast<const acc*>(base) + at;
}

// Where to write a row in acc: where it belongs, if that is its type, or else `copy`, for `write` to round.
template <typename scalar_t, typename acc>
SSM_INLINE acc* place(void* base, bool wide, int64_t at, acc* copy) {
  return std::is_same_v<scalar_t, acc> || wide ? static_cast<acc*>(base) + at : copy;
}

template <typename scalar_t, typename acc>
SSM_INLINE void write(void* base, bool wide, int64_t at, const acc* __restrict__ copy, int64_t channels) {
  if constexpr (!std::is_same_v<scalar_t, acc>) {
    if (wide) return;
    scalar_t* __restrict__ out = static_cast<scalar_t*>(base) + at;
    for (int64_t c = 0; c < channels; ++c) out[c] = static_cast<scalar_t>(copy[c]);
  }
}

constexpr int64_t kLanes = 32;  // sums are spread over so many, so that they vectorise

template <typename acc>
SSM_INLINE void add_squares(const acc* __restrict__ value, acc mean, acc* __restrict__ lanes, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const acc centred = value[i] - mean;
    lanes[i] += centred * centred;
  }
}

// The mean, if the norm is centred, and 1 over the deviation of a row.
template <typename acc>
struct Moments {
  acc mean, scale;

  SSM_INLINE Moments(const NormParams& p, const acc* __restrict__ value) {
    const int64_t channels = p.channels;
    mean = p.centred ? sum_of(value, channels) / channels : acc(0);
    acc lanes[kLanes] = {};
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) add_squares(value + c, mean, lanes, kLanes);
    add_squares(value + c, mean, lanes, channels - c);
    scale = acc(1) / std::sqrt(sum_lanes(lanes) / channels + static_cast<acc>(p.eps));
  }
};

// silu of as many elements as a vector has, and its derivative if `slope` is not null.
template <typename acc>
SSM_INLINE void silu_vector(const acc* z, acc* silu, acc* slope) {
  const Vec<acc> x = load(z), open = sigmoid<acc>(x, decaying_part(x)), value = x * open;
  store(silu, value);
  if (slope != nullptr) store(slope, open + value * (acc(1) - open));
}

// The same of a row.
template <typename acc>
SSM_INLINE void silu_row(const acc* z, acc* silu, acc* slope, int64_t channels) {
  constexpr int64_t kStep = kLanesOf<acc>;
  int64_t c = 0;
  for (; c + kStep <= channels; c += kStep) silu_vector(z + c, silu + c, slope == nullptr ? nullptr : slope + c);
  if (c == channels) return;
  acc in[kStep] = {}, out[kStep], out_slope[kStep];
  std::copy(z + c, z + channels, in);
  silu_vector(in, out, out_slope);
  std::copy(out, out + (channels - c), silu + c);
  if (slope != nullptr) std::copy(out_slope, out_slope + (channels - c), slope + c);
}

// `work` has kNormWork rows.
template <typename scalar_t, typename acc>
SSM_MULTIVERSION void norm_row(const NormParams& p, int64_t row, acc* work) {
  const int64_t channels = p.channels, at = row * channels;
  const acc* stream = read<scalar_t>(p.x, p.x_wide, at, work, channels);
  if (p.residual != nullptr) {
    const acc factor = p.scale_of<acc>(row);
    const acc* const residual = read<scalar_t>(p.residual, p.stream_wide, at, work + channels, channels);
    acc* const sum = place<scalar_t>(p.stream, p.stream_wide, at, work);
    for (int64_t c = 0; c < channels; ++c) sum[c] = residual[c] + factor * stream[c];
    write<scalar_t>(p.stream, p.stream_wide, at, sum, channels);
    stream = read<scalar_t>(p.stream, p.stream_wide, at, work, channels);  // as the backward pass will see it
  }
  const Moments<acc> of(p, stream);
  acc* __restrict__ y = place<scalar_t>(p.y, p.y_wide, at, work + channels);
  const acc* __restrict__ weight = static_cast<const acc*>(p.weight);
  const acc* __restrict__ in = stream;
  if (p.bias != nullptr) {
    const acc* __restrict__ bias = static_cast<const acc*>(p.bias);
    for (int64_t c = 0; c < channels; ++c) y[c] = (in[c] - of.mean) * of.scale * weight[c] + bias[c];
  } else {
    for (int64_t c = 0; c < channels; ++c) y[c] = (in[c] - of.mean) * of.scale * weight[c];
  }
  if (p.gate != nullptr) {
    acc* __restrict__ silu = work + 2 * channels;
    silu_row(read<scalar_t>(p.gate, p.x_wide, at, work + 3 * channels, channels), silu, static_cast<acc*>(nullptr),
        channels);
    for (int64_t c = 0; c < channels; ++c) y[c] *= silu[c];
  }
  write<scalar_t>(p.y, p.y_wide, at, y, channels);
}

// Returns the gradient of the norm, given that of its product with silu(gate), and writes the gradient of the gate.
// `work` has five rows.
template <typename scalar_t, typename acc>
SSM_INLINE const acc* through_gate(
    const NormParams& p, int64_t at, Moments<acc> of, const acc* stream, const acc* grad_y, acc* work) {
  const int64_t channels = p.channels;
  acc* __restrict__ g = work, * __restrict__ slope = work + channels;
  silu_row(read<scalar_t>(p.gate, p.x_wide, at, work + 2 * channels, channels), g, slope, channels);
  acc* __restrict__ grad_gate = place<scalar_t>(p.grad_gate, p.x_wide, at, work + 3 * channels);
  const acc* __restrict__ weight = static_cast<const acc*>(p.weight);
  acc* __restrict__ y = work + 4 * channels;
  for (int64_t c = 0; c < channels; ++c) y[c] = (stream[c] - of.mean) * of.scale * weight[c];
  if (p.bias != nullptr) {
    const acc* __restrict__ bias = static_cast<const acc*>(p.bias);
    for (int64_t c = 0; c < channels; ++c) y[c] += bias[c];
  }
  for (int64_t c = 0; c < channels; ++c) {
    grad_gate[c] = grad_y[c] * y[c] * slope[c];
    g[c] *= grad_y[c];
  }
  write<scalar_t>(p.grad_gate, p.x_wide, at, grad_gate, channels);
  return g;
}

// Computes w g of some channels of a row. Adds what they give to ∂weight and ∂bias, and to the lanes of Σ w g and
// Σ w g n.
template <typename acc>
SSM_INLINE void add_gradients(const acc* __restrict__ stream, const acc* __restrict__ g, const acc* __restrict__ weight,
    Moments<acc> of, acc* __restrict__ weighted, acc* __restrict__ sum_weight, acc* __restrict__ sum_bias,
    acc* __restrict__ along_one, acc* __restrict__ along_n, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const acc n = (stream[i] - of.mean) * of.scale;
    weighted[i] = g[i] * weight[i];
    sum_weight[i] += g[i] * n;
    sum_bias[i] += g[i];
    along_one[i] += weighted[i];
    along_n[i] += weighted[i] * n;
  }
}

// Adds what the row gives to ∂weight and ∂bias to `sums`, which has two rows. `work` has kNormBackwardWork
// rows.
template <typename scalar_t, typename acc>
SSM_MULTIVERSION void norm_backward_row(const NormParams& p, int64_t row, acc* sums, acc* work) {
  const int64_t channels = p.channels, at = row * channels;
  const acc* __restrict__ stream = read<scalar_t>(p.kept_stream, p.stream_wide, at, work, channels);
  const acc* g = read<scalar_t>(p.grad_y, p.y_wide, at, work + channels, channels);
  const acc* __restrict__ weight = static_cast<const acc*>(p.weight);
  const Moments<acc> of(p, stream);
  if (p.gate != nullptr) g = through_gate<scalar_t>(p, at, of, stream, g, work + 6 * channels);
  // Rounded once: differences of w g and its mean must vanish where all are equal.
  acc* __restrict__ weighted = work + 2 * channels;
  acc along_one[kLanes] = {}, along_n[kLanes] = {};
  const auto add = [&](int64_t c, int64_t count) __attribute__((always_inline)) {
    add_gradients(
        stream + c, g + c, weight + c, of, weighted + c, sums + c, sums + channels + c, along_one, along_n, count);
  };
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) add(c, kLanes);
  add(c, channels - c);
  const acc mean = p.centred ? sum_lanes(along_one) / channels : acc(0), slope = sum_lanes(along_n) / channels;
  const auto gradient = [&](int64_t i) __attribute__((always_inline)) {
    return of.scale * (weighted[i] - mean - (stream[i] - of.mean) * of.scale * slope);
  };
  acc* __restrict__ grad = place<scalar_t>(p.grad_residual, p.stream_wide, at, work + 3 * channels);
  if (p.grad_stream != nullptr) {
    const acc* __restrict__ more = read<scalar_t>(p.grad_stream, p.stream_wide, at, work + 4 * channels, channels);
    for (int64_t i = 0; i < channels; ++i) grad[i] = gradient(i) + more[i];
  } else {
    for (int64_t i = 0; i < channels; ++i) grad[i] = gradient(i);
  }
  write<scalar_t>(p.grad_residual, p.stream_wide, at, grad, channels);
  if (p.grad_x != nullptr) {
    const acc factor = p.scale_of<acc>(row);
    acc* __restrict__ grad_x = place<scalar_t>(p.grad_x, p.x_wide, at, work + 5 * channels);
    for (int64_t i = 0; i < channels; ++i) grad_x[i] = grad[i] * factor;
    write<scalar_t>(p.grad_x, p.x_wide, at, grad_x, channels);
  }
}

}  // namespace
}  // namespace ssm
