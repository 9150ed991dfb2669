#include <torch/headeronly/util/Half.h>

#include "depthwise_conv/cuda/kernels.cuh"

namespace ssm {

template void launch_depthwise_conv<c10::Half>(const DepthwiseConvLaunch&);
template void launch_depthwise_conv_backward<c10::Half>(const DepthwiseConvLaunch&);

}  // namespace ssm
