#include <torch/headeronly/util/Half.h>

#include "conv_norm_gelu/cuda/kernels.cuh"

namespace ssm {

template void launch_conv_norm_gelu<c10::Half>(const ConvNormGeluLaunch&);
template void launch_conv_norm_gelu_backward<c10::Half>(const ConvNormGeluLaunch&);

}  // namespace ssm
