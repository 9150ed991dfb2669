// What the host hands to the token logits' kernel by value, and its launcher.
#pragma once

#include "common/cuda/two_layers.h"
#include "token_logits/params.h"

namespace ssm {

struct TokenLogitsLaunch : TokenLogitsParams {
  TwoLayers layers;  // D channels, D hidden ones, D/2 out
  int blocks;
};

// Numbers of channels that kernels are compiled for: those of the models, up to what the registers hold.
constexpr bool token_logits_has(int64_t channels) {
  return channels == 64 || channels == 96 || channels == 128 || channels == 192 || channels == 384;
}

template <typename scalar_t>
void launch_token_logits(const TokenLogitsLaunch& launch);

}  // namespace ssm
