#include "selective_scan_forward.cuh"

template void ssm::launch_forward<float>(const ScanLaunch&);
