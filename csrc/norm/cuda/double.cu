#include "norm/cuda/kernels.cuh"

namespace ssm {

template void launch_norm<double>(const NormLaunch&);
template void launch_norm_backward<double>(const NormLaunch&);

}  // namespace ssm
