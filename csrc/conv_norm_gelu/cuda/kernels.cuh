// Launchers of the kernels of the stem's first half for one half type.
#pragma once

#include "common/cuda/column_sums.cuh"
#include "common/cuda/launch.h"
#include "conv_norm_gelu/cuda/backward.cuh"
#include "conv_norm_gelu/cuda/forward.cuh"

namespace ssm {
namespace {

constexpr const char* kStemName = "conv_norm_gelu";

template <typename scalar_t>
void launch_pass(const ConvNormGeluLaunch& p, bool backward, void (*kernel)(ConvNormGeluLaunch)) {
  launch_kernel(kStemName, kernel,
      {dim3(static_cast<unsigned>(p.blocks)), dim3(kStemThreads),
          StemMemory<scalar_t>(backward, p.channels, nullptr).bytes, 1, current_stream()},
      p);
}

}  // namespace

template <typename scalar_t>
void launch_conv_norm_gelu(const ConvNormGeluLaunch& p) {
  with_listed<kStemChannels>(
      p.channels, [&](auto channels) { launch_pass<scalar_t>(p, false, conv_norm_gelu_kernel<scalar_t, channels>); });
}

template <typename scalar_t>
void launch_conv_norm_gelu_backward(const ConvNormGeluLaunch& p) {
  with_listed<kStemChannels>(p.channels,
      [&](auto channels) { launch_pass<scalar_t>(p, true, conv_norm_gelu_backward_kernel<scalar_t, channels>); });
  const int64_t channels = p.channels, taps = kStemTaps * channels;
  launch_column_sums<float, ConvNormGeluParams>(kStemName,
      {p.partial, p.groups, kStemSums * channels, {taps, taps + channels, taps + 2 * channels, taps + 3 * channels},
          {p.grad_weight, p.grad_bias, p.grad_norm_weight, p.grad_norm_bias}});
}

}  // namespace ssm
