#include "selective_scan/cuda/backward.cuh"

template void ssm::launch_backward<double>(const ScanLaunch&, const SelectiveScanGradients&);
