#include "selective_scan/cuda/unvisited.h"

#include "common/cuda/launch.h"
#include "common/cuda/unvisited.cuh"

namespace ssm {
namespace {

struct OrderVisits {
  const int64_t* order;
  Strides stride;
  int64_t batch, directions, length;
  int64_t each;  // neighbouring directions that follow one order
  ScanResults results;
};

// A block takes one window of one order.
__global__ void __launch_bounds__(kVisitThreads) clear_unvisited_kernel(const __grid_constant__ OrderVisits v) {
  extern __shared__ int4 memory[];
  const int64_t windows = visit_windows(v.length), orders = v.directions / v.each;
  for (int64_t item = blockIdx.x; item < v.batch * orders * windows; item += gridDim.x) {
    const int64_t own = item / windows, sample = own / orders, first = own % orders * v.each;
    const int64_t* const order = v.order + sample * v.stride.batch + first * v.stride.group;
    const VisitWindow window(reinterpret_cast<unsigned char*>(memory), item % windows, v.length);
    window.start();
    // Tokens out of range are no tokens for the scan either.
    window.mark([&](int64_t step) { return order[step * v.stride.token]; });
    window.each_unmarked(
        [&](int64_t token) { clear_token(v.results, v.batch, v.directions, v.length, sample, first, v.each, token); });
    __syncthreads();
  }
}

}  // namespace

void launch_clear_unvisited(const SelectiveScanParams& p, const ScanResults& results) {
  if (p.order == nullptr || p.batch == 0) return;
  const int64_t each = p.order_stride.group == 0 ? p.inner : 1, directions = p.groups * p.inner;
  const OrderVisits visits{p.order, p.order_stride, p.batch, directions, p.length, each, results};
  const int64_t blocks = visit_blocks(p.batch * (directions / each), p.length);
  launch_kernel("selective_scan", clear_unvisited_kernel,
      {dim3(grid_blocks(blocks, "selective_scan")), dim3(visit_threads(p.length)), visit_bytes(p.length), 1,
          current_stream()},
      visits);
}

}  // namespace ssm
