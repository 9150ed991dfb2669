// The quadtree token order, and the gradient of the straight-through mask, on the GPU.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/cuda/launch.h"
#include "common/cuda/reduce.cuh"
#include "common/pack.h"
#include "common/scalar.h"
#include "quadtree_order/cuda/launch.h"
#include "quadtree_order/cuda/tuning.h"

namespace ssm {
namespace {

// The token, in the unrolled map, at place `index` of the raster of a window.
__device__ int raster(const RolledMap& map, const Window& w, int index) {
  const int row = w.top + index / w.width - map.shift_y, col = w.left + index % w.width - map.shift_x;
  return (row < 0 ? row + map.height : row) * map.width + (col < 0 ? col + map.width : col);
}

// The token at place `index` of the rasters of the window's four quarters, one after another.
__device__ int raster_quarters(const RolledMap& map, const Window& w, int index) {
  for (int q = 0; q < 3; ++q) {
    const Window part = w.quarter(q);
    if (index < part.size()) return raster(map, part, index);
    index -= part.size();
  }
  return raster(map, w.quarter(3), index);
}

__global__ void __launch_bounds__(kQuadtreeThreads) order_kernel(
    const int64_t* choice, int64_t choice_stride, int64_t* order, int64_t batch, RolledMap map, int levels) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kQuadtreeThreads + threadIdx.x;
  const int length = map.height * map.width;
  if (index >= batch * length) return;
  int place = static_cast<int>(index % length);
  if (levels == 0) {
    order[index] = raster(map, map.whole(), place);
    return;
  }
  int q = 0;
  Window window = map.whole().quarter(0);
  while (q < 3 && place >= window.size()) {
    place -= window.size();
    window = map.whole().quarter(++q);
  }
  const bool split = levels == 2 && choice[index / length * choice_stride] == q;
  order[index] = split ? raster_quarters(map, window, place) : raster(map, window, place);
}

// One block takes one of `splits` stretches of one quadrant of one sample. In the chosen quadrant the token at the fine
// place of t is t itself; in the others the token at its coarse place is. So each token is compared with one partner.
template <typename scalar_t, int kVector>
__global__ void __launch_bounds__(kQuadtreeThreads) mask_gradient_kernel(const scalar_t* a, const scalar_t* b,
    const int64_t* choice, int64_t choice_stride, acc_t<scalar_t>* partial, RolledMap map, int vectors, int splits) {
  using acc = acc_t<scalar_t>;
  using Packed = Pack<scalar_t, kVector>;
  const int split = blockIdx.x % splits;
  const int q = blockIdx.x / splits % 4;
  const int64_t sample = blockIdx.x / splits / 4;
  const Window window = map.whole().quarter(q);
  const bool is_chosen = choice[sample * choice_stride] == q;
  const int64_t size = window.size();
  const int first = static_cast<int>(size * split / splits), end = static_cast<int>(size * (split + 1) / splits);
  const int64_t rows = sample * map.height * map.width;
  const auto* a_rows = reinterpret_cast<const Packed*>(a) + rows * vectors;
  const auto* b_rows = reinterpret_cast<const Packed*>(b) + rows * vectors;

  // A few lanes have a token: finding its places takes more instructions than reading a vector.
  acc sum = 0;
  for (int place = first + threadIdx.x / kMaskLanes; place < end; place += kQuadtreeThreads / kMaskLanes) {
    const int coarse = raster(map, window, place), fine = raster_quarters(map, window, place);
    if (coarse == fine) continue;
    const int64_t t = is_chosen ? coarse : fine, partner = is_chosen ? fine : coarse;
#pragma unroll 4
    for (int column = threadIdx.x % kMaskLanes; column < vectors; column += kMaskLanes) {
      const Packed x = a_rows[t * vectors + column];
      const Packed own = b_rows[t * vectors + column], other = b_rows[partner * vectors + column];
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        sum += static_cast<acc>(x.value[v]) * (static_cast<acc>(own.value[v]) - static_cast<acc>(other.value[v]));
      }
    }
  }
  sum = sum_over_block<kQuadtreeThreads>(is_chosen ? sum : -sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <typename acc>
__global__ void __launch_bounds__(kQuadtreeThreads)
    sum_splits_kernel(const acc* partial, acc* out, int64_t count, int splits) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kQuadtreeThreads + threadIdx.x;
  if (i >= count) return;
  acc sum = 0;
  for (int s = 0; s < splits; ++s) sum += partial[i * splits + s];
  out[i] = sum;
}

LaunchShape shape_for(int64_t blocks, const char* op) {
  return {dim3(grid_blocks(blocks, op)), dim3(kQuadtreeThreads), 0, 1, current_stream()};
}

}  // namespace

void launch_quadtree_order(const QuadtreeOrderParams& l) {
  const int64_t tokens = l.batch * l.map.height * l.map.width;
  const int64_t blocks = (tokens + kQuadtreeThreads - 1) / kQuadtreeThreads;
  launch_kernel("quadtree_order", order_kernel, shape_for(blocks, "quadtree_order"), l.choice, l.choice_stride, l.order,
      l.batch, l.map, l.levels);
}

template <typename scalar_t>
void launch_mask_gradient(const MaskGradientLaunch& l) {
  using acc = acc_t<scalar_t>;
  constexpr int kWide = 16 / sizeof(scalar_t);
  auto* const partial = static_cast<acc*>(l.partial);
  const auto run = [&](auto kernel, int width) {
    launch_kernel("mask_gradient", kernel, shape_for(4 * l.batch * l.splits, "mask_gradient"),
        static_cast<const scalar_t*>(l.a), static_cast<const scalar_t*>(l.b), l.choice, l.choice_stride, partial, l.map,
        static_cast<int>(l.channels / width), l.splits);
  };
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  if (l.channels % kWide == 0 && aligned(l.a) && aligned(l.b)) {
    run(mask_gradient_kernel<scalar_t, kWide>, kWide);
  } else {
    run(mask_gradient_kernel<scalar_t, 1>, 1);
  }
  if (l.splits == 1) return;
  const int64_t blocks = (4 * l.batch + kQuadtreeThreads - 1) / kQuadtreeThreads;
  launch_kernel("mask_gradient", sum_splits_kernel<acc>, shape_for(blocks, "mask_gradient"), partial,
      static_cast<acc*>(l.gradient), 4 * l.batch, l.splits);
}

template void launch_mask_gradient<double>(const MaskGradientLaunch&);
template void launch_mask_gradient<float>(const MaskGradientLaunch&);
template void launch_mask_gradient<c10::Half>(const MaskGradientLaunch&);
template void launch_mask_gradient<c10::BFloat16>(const MaskGradientLaunch&);

}  // namespace ssm
