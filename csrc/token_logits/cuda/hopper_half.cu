#include <torch/headeronly/util/Half.h>

#include "token_logits/cuda/hopper.cuh"

namespace ssm {

template const void* hopper_logits_kernel_for<c10::Half>(int);
template void launch_hopper_logits<c10::Half>(const HopperLogitsLaunch&);

}  // namespace ssm
