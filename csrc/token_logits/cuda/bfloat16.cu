#include <torch/headeronly/util/BFloat16.h>

#include "token_logits/cuda/kernels.cuh"

namespace ssm {

template void launch_token_logits<c10::BFloat16>(const TokenLogitsLaunch&);

}  // namespace ssm
