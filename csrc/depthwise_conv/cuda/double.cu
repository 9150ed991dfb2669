#include "depthwise_conv/cuda/kernels.cuh"

namespace ssm {

template void launch_depthwise_conv<double>(const DepthwiseConvLaunch&);
template void launch_depthwise_conv_backward<double>(const DepthwiseConvLaunch&);

}  // namespace ssm
