#include "subtree_scan/cuda/walk.cuh"

namespace ssm {

template <>
void launch_subtree_scan<float>(const SubtreeScanLaunch& launch) {
  launch_subtree_types<float>(launch);
}

}  // namespace ssm
