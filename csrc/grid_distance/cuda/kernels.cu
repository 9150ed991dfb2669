// exp(-cosine) of the two ends of every edge of the 4-connected grid, on the GPU.
#include <c10/cuda/CUDAException.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "common/cuda/device.h"
#include "common/scalar.h"
#include "grid_distance/cuda/launch.h"

namespace ssm {
namespace {

constexpr int kThreads = 128;
constexpr int kSums = 5;

template <typename scalar_t, int kVector>
struct alignas(sizeof(scalar_t) * kVector) Packed {
  scalar_t value[kVector];
};

// A team of threads takes one vertex with its edges to the right and down. Each feature is read three times, but from
// memory once: the neighbours' teams are in the same block or run at about the same time.
template <typename scalar_t, int kVector>
__global__ void __launch_bounds__(kThreads)
    distance_kernel(const scalar_t* x, acc_t<scalar_t>* out, int64_t vertices, Grid grid, int vectors, int team) {
  using acc = acc_t<scalar_t>;
  using Row = Packed<scalar_t, kVector>;
  const int64_t vertex = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / team;
  const int lane = threadIdx.x % team;
  const bool live = vertex < vertices;
  const int64_t length = static_cast<int64_t>(grid.height) * grid.width;
  const int64_t sample = vertex / length, place = vertex % length;
  const int64_t row = place / grid.width, column = place % grid.width;
  const bool has_right = live && column + 1 < grid.width, has_down = live && row + 1 < grid.height;
  const Row* own = reinterpret_cast<const Row*>(x) + (live ? vertex : 0) * vectors;
  const Row* right = own + (has_right ? vectors : 0);
  const Row* down = own + (has_down ? static_cast<int64_t>(grid.width) * vectors : 0);

  acc sums[kSums] = {};  // |own|², |right|², |down|², own · right, own · down
  for (int i = lane; i < vectors; i += team) {
    const Row a = own[i], b = right[i], c = down[i];
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const acc f = static_cast<acc>(a.value[v]), r = static_cast<acc>(b.value[v]), d = static_cast<acc>(c.value[v]);
      sums[0] += f * f;
      sums[1] += r * r;
      sums[2] += d * d;
      sums[3] += f * r;
      sums[4] += f * d;
    }
  }
  for (int offset = team / 2; offset > 0; offset /= 2) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], offset);
  }
  if (lane != 0) return;
  acc* edges = out + sample * grid.edges();
  const acc inverse = inverse_norm(sums[0]);
  if (has_down) edges[place] = exp_minus_cosine(sums[4], inverse, inverse_norm(sums[2]));
  if (has_right) {
    edges[grid.vertical() + row * (grid.width - 1) + column] =
        exp_minus_cosine(sums[3], inverse, inverse_norm(sums[1]));
  }
}

}  // namespace

template <typename scalar_t>
void launch_grid_distance(const GridDistanceLaunch& l) {
  constexpr int kWide = 16 / sizeof(scalar_t);
  const int64_t vertices = l.batch * l.grid.height * l.grid.width;
  const auto run = [&](auto kernel, int64_t vectors) {
    int team = 4;
    while (team < 32 && vectors > 6 * team) team *= 2;
    const int64_t blocks = (vertices * team + kThreads - 1) / kThreads;
    TORCH_CHECK(blocks < (int64_t(1) << 31) && vectors < (int64_t(1) << 31), "the input is too large for one launch");
    kernel<<<static_cast<unsigned>(blocks), kThreads, 0, current_stream()>>>(static_cast<const scalar_t*>(l.x),
        static_cast<acc_t<scalar_t>*>(l.out), vertices, l.grid, static_cast<int>(vectors), team);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  };
  if (l.channels % kWide == 0 && reinterpret_cast<uintptr_t>(l.x) % 16 == 0) {
    run(distance_kernel<scalar_t, kWide>, l.channels / kWide);
  } else {
    run(distance_kernel<scalar_t, 1>, l.channels);
  }
}

template void launch_grid_distance<double>(const GridDistanceLaunch&);
template void launch_grid_distance<float>(const GridDistanceLaunch&);
template void launch_grid_distance<c10::Half>(const GridDistanceLaunch&);
template void launch_grid_distance<c10::BFloat16>(const GridDistanceLaunch&);

}  // namespace ssm
