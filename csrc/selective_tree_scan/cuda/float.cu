#include "selective_tree_scan/cuda/walk.cuh"

namespace ssm {

template <>
void launch_selective_tree_scan<float>(const SelectiveTreeScanLaunch& launch) {
  launch_selective_types<float>(launch);
}

template <>
void launch_selective_sums<float>(const SelectiveTreeScanLaunch& launch) {
  launch_sums_of_pieces<float>(launch);
}

}  // namespace ssm
