// The launcher of the tokens' distances.
#pragma once

#include "token_distance/params.h"

namespace ssm {

template <typename scalar_t>
void launch_token_distance(const TokenDistanceParams& params);

}  // namespace ssm
