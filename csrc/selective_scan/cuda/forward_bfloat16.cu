#include "selective_scan/cuda/forward.cuh"

template void ssm::launch_forward<c10::BFloat16>(const ScanLaunch&);
