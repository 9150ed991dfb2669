#include "selective_scan/cuda/forward.cuh"

template void ssm::launch_forward<float>(const ScanLaunch&);
