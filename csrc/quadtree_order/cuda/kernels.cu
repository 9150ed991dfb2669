// The quadtree token order, and the gradient of the straight-through mask, on the GPU.
#include <c10/cuda/CUDAException.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "common/cuda/device.h"
#include "common/scalar.h"
#include "quadtree_order/cuda/launch.h"

namespace ssm {
namespace {

constexpr int kThreads = 256;

struct Window {
  int top, left, height, width;

  __host__ __device__ int size() const { return height * width; }

  // One of the four windows of this one, in raster order, cut at ceil(size / 2).
  __host__ __device__ Window quarter(int index) const {
    const int row = (height + 1) / 2, col = (width + 1) / 2;
    const bool below = index >= 2, right = index % 2 == 1;
    return {below ? top + row : top, right ? left + col : left, below ? height - row : row, right ? width - col : col};
  }
};

struct Map {
  int height, width, shift_y, shift_x;

  __host__ __device__ Window whole() const { return {0, 0, height, width}; }

  // The token, in the unrolled map, at place `index` of the raster of a window.
  __device__ int raster(const Window& w, int index) const {
    const int row = w.top + index / w.width - shift_y, col = w.left + index % w.width - shift_x;
    return (row < 0 ? row + height : row) * width + (col < 0 ? col + width : col);
  }

  // The same for the rasters of its four quarters, one after another.
  __device__ int raster_quarters(const Window& w, int index) const {
    for (int q = 0; q < 3; ++q) {
      const Window part = w.quarter(q);
      if (index < part.size()) return raster(part, index);
      index -= part.size();
    }
    return raster(w.quarter(3), index);
  }
};

unsigned grid_size(int64_t blocks) {
  TORCH_CHECK(blocks < (int64_t(1) << 31), "the input is too large for one launch");
  return static_cast<unsigned>(blocks);
}

__global__ void __launch_bounds__(kThreads)
    order_kernel(const int64_t* choice, int64_t choice_stride, int64_t* order, int64_t batch, Map map, int levels) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int length = map.height * map.width;
  if (index >= batch * length) return;
  int place = static_cast<int>(index % length);
  if (levels == 0) {
    order[index] = map.raster(map.whole(), place);
    return;
  }
  int q = 0;
  Window window = map.whole().quarter(0);
  while (q < 3 && place >= window.size()) {
    place -= window.size();
    window = map.whole().quarter(++q);
  }
  const bool split = levels == 2 && choice[index / length * choice_stride] == q;
  order[index] = split ? map.raster_quarters(window, place) : map.raster(window, place);
}

template <typename scalar_t, int kVector>
struct alignas(sizeof(scalar_t) * kVector) Vector {
  scalar_t value[kVector];
};

// The block's sum, in a fixed order; thread 0 has it.
template <typename acc>
__device__ acc block_sum(acc value) {
  __shared__ acc sums[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kThreads / 32; ++w) value += sums[w];
  }
  return value;
}

// One block takes one of `splits` stretches of one quadrant of one sample. Within the chosen quadrant the token at the
// fine place of t is t itself; elsewhere the one at its coarse place is. So each token is compared with one partner.
template <typename scalar_t, int kVector>
__global__ void __launch_bounds__(kThreads) mask_gradient_kernel(const scalar_t* a, const scalar_t* b,
    const int64_t* choice, int64_t choice_stride, acc_t<scalar_t>* partial, Map map, int vectors, int splits) {
  using acc = acc_t<scalar_t>;
  using Packed = Vector<scalar_t, kVector>;
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

  acc sum = 0;
  const int64_t items = static_cast<int64_t>(end - first) * vectors;
  for (int64_t item = threadIdx.x; item < items; item += kThreads) {
    const int place = first + static_cast<int>(item / vectors), column = static_cast<int>(item % vectors);
    const int coarse = map.raster(window, place), fine = map.raster_quarters(window, place);
    if (coarse == fine) continue;
    const int64_t t = is_chosen ? coarse : fine, partner = is_chosen ? fine : coarse;
    const Packed x = a_rows[t * vectors + column];
    const Packed own = b_rows[t * vectors + column], other = b_rows[partner * vectors + column];
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      sum += static_cast<acc>(x.value[v]) * (static_cast<acc>(own.value[v]) - static_cast<acc>(other.value[v]));
    }
  }
  sum = block_sum(is_chosen ? sum : -sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <typename acc>
__global__ void __launch_bounds__(kThreads) sum_splits_kernel(const acc* partial, acc* out, int64_t count, int splits) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  acc sum = 0;
  for (int s = 0; s < splits; ++s) sum += partial[i * splits + s];
  out[i] = sum;
}

Map map_of(const RolledMap& map) {
  return {map.height, map.width, map.shift_y, map.shift_x};
}

unsigned blocks_for(int64_t threads) {
  return grid_size((threads + kThreads - 1) / kThreads);
}

}  // namespace

void launch_quadtree_order(const QuadtreeOrderLaunch& l) {
  const int64_t tokens = l.batch * l.map.height * l.map.width;
  order_kernel<<<blocks_for(tokens), kThreads, 0, current_stream()>>>(
      l.choice, l.choice_stride, l.order, l.batch, map_of(l.map), l.levels);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename scalar_t>
void launch_mask_gradient(const MaskGradientLaunch& l) {
  using acc = acc_t<scalar_t>;
  constexpr int kWide = 16 / sizeof(scalar_t);
  auto* const partial = static_cast<acc*>(l.partial);
  const auto run = [&](auto kernel, int width) {
    kernel<<<grid_size(4 * l.batch * l.splits), kThreads, 0, current_stream()>>>(static_cast<const scalar_t*>(l.a),
        static_cast<const scalar_t*>(l.b), l.choice, l.choice_stride, partial, map_of(l.map),
        static_cast<int>(l.channels / width), l.splits);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  };
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  if (l.channels % kWide == 0 && aligned(l.a) && aligned(l.b)) {
    run(mask_gradient_kernel<scalar_t, kWide>, kWide);
  } else {
    run(mask_gradient_kernel<scalar_t, 1>, 1);
  }
  if (l.splits == 1) return;
  sum_splits_kernel<acc><<<blocks_for(4 * l.batch), kThreads, 0, current_stream()>>>(
      partial, static_cast<acc*>(l.gradient), 4 * l.batch, l.splits);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template void launch_mask_gradient<double>(const MaskGradientLaunch&);
template void launch_mask_gradient<float>(const MaskGradientLaunch&);
template void launch_mask_gradient<c10::Half>(const MaskGradientLaunch&);
template void launch_mask_gradient<c10::BFloat16>(const MaskGradientLaunch&);

}  // namespace ssm
