#include "selective_tree_scan/cuda/walk.cuh"

namespace ssm {

template <>
void launch_selective_tree_scan<float>(const SelectiveTreeScanLaunch& launch) {
  launch_selective_types<float>(launch);
}

}  // namespace ssm
