#include "selective_tree_scan/cuda/walk.cuh"

namespace ssm {

template <>
void launch_selective_tree_scan<c10::BFloat16>(const SelectiveTreeScanLaunch& launch) {
  launch_selective_types<c10::BFloat16>(launch);
}

template <>
void launch_selective_sums<c10::BFloat16>(const SelectiveTreeScanLaunch& launch) {
  launch_sums_of_pieces<c10::BFloat16>(launch);
}

}  // namespace ssm
