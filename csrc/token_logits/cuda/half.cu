#include <torch/headeronly/util/Half.h>

#include "token_logits/cuda/kernels.cuh"

namespace ssm {

template void launch_token_logits<c10::Half>(const TokenLogitsLaunch&);

}  // namespace ssm
