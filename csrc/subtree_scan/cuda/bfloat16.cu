#include "subtree_scan/cuda/walk.cuh"

namespace ssm {

template <>
void launch_subtree_scan<c10::BFloat16>(const SubtreeScanLaunch& launch) {
  launch_subtree_types<c10::BFloat16>(launch);
}

}  // namespace ssm
