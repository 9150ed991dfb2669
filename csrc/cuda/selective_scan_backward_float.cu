#include "selective_scan_backward.cuh"

template void ssm::launch_backward<float>(const ScanLaunch&, const SelectiveScanGradients&);
