#include <torch/headeronly/util/BFloat16.h>

#include "norm/cuda/kernels.cuh"

namespace ssm {

template void launch_norm<c10::BFloat16>(const NormLaunch&);
template void launch_norm_backward<c10::BFloat16>(const NormLaunch&);

}  // namespace ssm
