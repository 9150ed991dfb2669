#include "norm/cuda/kernels.cuh"

namespace ssm {

template void launch_norm<float>(const NormLaunch&);
template void launch_norm_backward<float>(const NormLaunch&);

}  // namespace ssm
