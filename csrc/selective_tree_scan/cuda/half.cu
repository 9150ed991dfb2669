#include "selective_tree_scan/cuda/walk.cuh"

namespace ssm {

template <>
void launch_selective_tree_scan<c10::Half>(const SelectiveTreeScanLaunch& launch) {
  launch_selective_types<c10::Half>(launch);
}

template <>
void launch_selective_sums<c10::Half>(const SelectiveTreeScanLaunch& launch) {
  launch_sums_of_pieces<c10::Half>(launch);
}

}  // namespace ssm
