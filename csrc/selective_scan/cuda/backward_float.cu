#include "selective_scan/cuda/backward.cuh"

template void ssm::launch_backward<float>(const ScanLaunch&, const SelectiveScanGradients&);
