#include "selective_scan/cuda/forward.cuh"

template void ssm::launch_forward<c10::Half>(const ScanLaunch&);
