#include <torch/headeronly/util/Half.h>

#include "mlp/cuda/kernels.cuh"

namespace ssm {

template void launch_mlp<c10::Half>(const MlpLaunch&);
template void launch_mlp_backward<c10::Half>(const MlpLaunch&);

}  // namespace ssm
