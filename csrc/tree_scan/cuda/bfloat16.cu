#include "tree_scan/cuda/walk.cuh"

namespace ssm {

template <>
void launch_tree_scan<c10::BFloat16>(const TreeScanLaunch& launch) {
  if (launch.wide_weight) {
    launch_types<c10::BFloat16, float>(launch);
  } else {
    launch_types<c10::BFloat16, c10::BFloat16>(launch);
  }
}

}  // namespace ssm
