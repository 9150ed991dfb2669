#include "tree_scan/cuda/walk.cuh"

namespace ssm {

template <>
void launch_tree_scan<float>(const TreeScanLaunch& launch) {
  launch_types<float, float>(launch);
}

}  // namespace ssm
