#include "tree_scan/cuda/walk.cuh"

namespace ssm {

template <>
void launch_tree_scan<double>(const TreeScanLaunch& launch) {
  launch_types<double, double>(launch);
}

}  // namespace ssm
