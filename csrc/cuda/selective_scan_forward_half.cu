#include "selective_scan_forward.cuh"

template void ssm::launch_forward<c10::Half>(const ScanLaunch&);
