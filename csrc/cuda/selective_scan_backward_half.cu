#include "selective_scan_backward.cuh"

template void ssm::launch_backward<c10::Half>(const ScanLaunch&, const SelectiveScanGradients&);
