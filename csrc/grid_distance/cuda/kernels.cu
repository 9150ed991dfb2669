// exp(-cosine) of the two ends of every edge of the 4-connected grid, on the GPU.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/cosine.h"
#include "common/cuda/launch.h"
#include "common/cuda/reduce.cuh"
#include "common/pack.h"
#include "common/scalar.h"
#include "grid_distance/cuda/launch.h"
#include "grid_distance/cuda/tuning.h"

namespace ssm {
namespace {

constexpr int kSums = 5;

// A team of threads takes one vertex with its edges to the right and down. Each feature is read three times, but only
// once from memory, since the neighbours' teams are in the same block or run at about the same time.
template <typename scalar_t, int kVector>
__global__ void __launch_bounds__(kGridThreads) distance_kernel(
    const scalar_t* x, int64_t batch_stride, acc_t<scalar_t>* out, int64_t vertices, Grid grid, int vectors, int team) {
  using acc = acc_t<scalar_t>;
  using Row = Pack<scalar_t, kVector>;
  const int64_t vertex = (static_cast<int64_t>(blockIdx.x) * kGridThreads + threadIdx.x) / team;
  const int lane = threadIdx.x % team;
  const bool live = vertex < vertices;
  const int64_t length = static_cast<int64_t>(grid.height) * grid.width;
  const int64_t sample = vertex / length, place = vertex % length;
  const int64_t row = place / grid.width, column = place % grid.width;
  const bool has_right = live && column + 1 < grid.width, has_down = live && row + 1 < grid.height;
  const Row* own = reinterpret_cast<const Row*>(x + (live ? sample : 0) * batch_stride) + (live ? place : 0) * vectors;
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
  sum_over_lanes(sums, team);
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
void launch_grid_distance(const GridDistanceParams& l) {
  constexpr int kWide = 16 / sizeof(scalar_t);
  const int64_t vertices = l.batch * l.grid.height * l.grid.width;
  const auto run = [&](auto kernel, int64_t vectors) {
    const int team = grid_team(vectors);
    const int64_t blocks = (vertices * team + kGridThreads - 1) / kGridThreads;
    const dim3 grid(grid_blocks(blocks, "grid_cosine_distance"));
    launch_kernel("grid_cosine_distance", kernel, {grid, dim3(kGridThreads), 0, 1, current_stream()},
        static_cast<const scalar_t*>(l.x), l.x_batch_stride, static_cast<acc_t<scalar_t>*>(l.out), vertices, l.grid,
        static_cast<int>(vectors), team);
  };
  if (l.channels % kWide == 0 && l.x_batch_stride % kWide == 0 && reinterpret_cast<uintptr_t>(l.x) % 16 == 0) {
    run(distance_kernel<scalar_t, kWide>, l.channels / kWide);
  } else {
    run(distance_kernel<scalar_t, 1>, l.channels);
  }
}

template void launch_grid_distance<double>(const GridDistanceParams&);
template void launch_grid_distance<float>(const GridDistanceParams&);
template void launch_grid_distance<c10::Half>(const GridDistanceParams&);
template void launch_grid_distance<c10::BFloat16>(const GridDistanceParams&);

}  // namespace ssm
