#include <torch/headeronly/util/Half.h>

#include "mlp/cuda/hopper.cuh"

namespace ssm {

template const void* hopper_mlp_kernel_for<c10::Half>(int);
template void launch_hopper_mlp<c10::Half>(const HopperMlpLaunch&);

}  // namespace ssm
