#include <torch/headeronly/util/BFloat16.h>

#include "depthwise_conv/cuda/kernels.cuh"

namespace ssm {

template void launch_depthwise_conv<c10::BFloat16>(const DepthwiseConvLaunch&);
template void launch_depthwise_conv_backward<c10::BFloat16>(const DepthwiseConvLaunch&);

}  // namespace ssm
