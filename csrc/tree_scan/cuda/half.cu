#include "tree_scan/cuda/walk.cuh"

namespace ssm {

template <>
void launch_tree_scan<c10::Half>(const TreeScanLaunch& launch) {
  if (launch.wide_weight) {
    launch_types<c10::Half, float>(launch);
  } else {
    launch_types<c10::Half, c10::Half>(launch);
  }
}

}  // namespace ssm
