#include <torch/headeronly/util/BFloat16.h>

#include "mlp/cuda/hopper.cuh"

namespace ssm {

template const void* hopper_mlp_kernel_for<c10::BFloat16>(int);
template void launch_hopper_mlp<c10::BFloat16>(const HopperMlpLaunch&);

}  // namespace ssm
