#include <torch/headeronly/util/Half.h>

#include "norm/cuda/kernels.cuh"

namespace ssm {

template void launch_norm<c10::Half>(const NormLaunch&);
template void launch_norm_backward<c10::Half>(const NormLaunch&);

}  // namespace ssm
