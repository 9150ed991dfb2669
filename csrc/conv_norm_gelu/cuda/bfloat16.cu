#include <torch/headeronly/util/BFloat16.h>

#include "conv_norm_gelu/cuda/kernels.cuh"

namespace ssm {

template void launch_conv_norm_gelu<c10::BFloat16>(const ConvNormGeluLaunch&);
template void launch_conv_norm_gelu_backward<c10::BFloat16>(const ConvNormGeluLaunch&);

}  // namespace ssm
