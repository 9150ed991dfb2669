#include "depthwise_conv/cuda/kernels.cuh"

namespace ssm {

template void launch_depthwise_conv<float>(const DepthwiseConvLaunch&);
template void launch_depthwise_conv_backward<float>(const DepthwiseConvLaunch&);

}  // namespace ssm
