#include "selective_scan/cuda/backward.cuh"

template void ssm::launch_backward<c10::Half>(const ScanLaunch&, const SelectiveScanGradients&);
