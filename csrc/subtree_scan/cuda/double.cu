#include "subtree_scan/cuda/walk.cuh"

namespace ssm {

template <>
void launch_subtree_scan<double>(const SubtreeScanLaunch& launch) {
  launch_subtree_types<double>(launch);
}

}  // namespace ssm
