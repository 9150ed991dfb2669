// What the host hands to the token logits' kernel by value, and its launcher.
#pragma once

#include "common/cuda/two_layers.h"
#include "token_logits/params.h"

namespace ssm {

struct TokenLogitsLaunch : TokenLogitsParams {
  TwoLayers layers;  // D channels, D hidden ones, D/2 out
  int blocks;
};

template <typename scalar_t>
void launch_token_logits(const TokenLogitsLaunch& launch);

}  // namespace ssm
