#include "selective_scan/cuda/backward.cuh"

template void ssm::launch_backward<c10::BFloat16>(const ScanLaunch&, const SelectiveScanGradients&);
