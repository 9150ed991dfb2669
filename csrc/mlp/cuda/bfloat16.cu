#include <torch/headeronly/util/BFloat16.h>

#include "mlp/cuda/kernels.cuh"

namespace ssm {

template void launch_mlp<c10::BFloat16>(const MlpLaunch&);
template void launch_mlp_backward<c10::BFloat16>(const MlpLaunch&);

}  // namespace ssm
