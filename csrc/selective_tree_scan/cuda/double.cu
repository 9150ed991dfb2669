#include "selective_tree_scan/cuda/walk.cuh"

namespace ssm {

template <>
void launch_selective_tree_scan<double>(const SelectiveTreeScanLaunch& launch) {
  launch_selective_types<double>(launch);
}

}  // namespace ssm
