#include "selective_scan_backward.cuh"

template void ssm::launch_backward<double>(const ScanLaunch&, const SelectiveScanGradients&);
