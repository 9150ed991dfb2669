#include <torch/headeronly/util/BFloat16.h>

#include "token_logits/cuda/hopper.cuh"

namespace ssm {

template const void* hopper_logits_kernel_for<c10::BFloat16>(int);
template void launch_hopper_logits<c10::BFloat16>(const HopperLogitsLaunch&);

}  // namespace ssm
