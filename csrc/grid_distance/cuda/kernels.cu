// exp(-cosine) of the two ends of every edge of the 4-connected grid, on the GPU.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/cosine.h"
#include "common/cuda/launch.h"
#include "common/cuda/reduce.cuh"
#include "common/cuda/rows.cuh"
#include "common/scalar.h"
#include "grid_distance/cuda/launch.h"
#include "grid_distance/cuda/tuning.h"

namespace ssm {
namespace {

constexpr int kSums = 5;

// The row of a vertex. A division of 32 bits takes a fourth of the instructions, and a vertex needs few besides.
__device__ __forceinline__ int64_t row_of(const Grid& grid, int64_t place) {
  if (grid.height * grid.width > INT32_MAX) return place / grid.width;
  return static_cast<uint32_t>(place) / static_cast<uint32_t>(grid.width);
}

// A team of threads takes one vertex with its edges to the right and down. Each feature is read three times, but only
// once from memory, since the neighbours' teams are in the same block or run at about the same time. `tiles` blocks
// have a sample.
template <typename scalar_t, int kVector>
__global__ void __launch_bounds__(kGridThreads) distance_kernel(
    const scalar_t* x, int64_t batch_stride, acc_t<scalar_t>* out, unsigned tiles, Grid grid, int vectors, int team) {
  using acc = acc_t<scalar_t>;
  using Row = Pack<scalar_t, kVector>;
  const unsigned sample = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int lane = lane_of_team(team), teams = kGridThreads >> (__ffs(team) - 1);
  const int64_t length = grid.height * grid.width, first = static_cast<int64_t>(tile) * teams + number_of_team(team);
  const bool live = first < length;
  const int64_t place = live ? first : 0, row = row_of(grid, place), column = place - row * grid.width;
  const bool has_right = live && column + 1 < grid.width, has_down = live && row + 1 < grid.height;
  const Row* own = reinterpret_cast<const Row*>(x + sample * batch_stride) + place * vectors;
  const Row* right = own + (has_right ? vectors : 0);
  const Row* down = own + (has_down ? grid.width * vectors : 0);

  acc sums[kSums] = {};  // |own|², |right|², |down|², own · right, own · down
  for (int i = lane; i < vectors; i += team) {
    acc f[kVector], r[kVector], d[kVector];
    unpack(own[i], f);
    unpack(right[i], r);
    unpack(down[i], d);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      sums[0] += f[v] * f[v];
      sums[1] += r[v] * r[v];
      sums[2] += d[v] * d[v];
      sums[3] += f[v] * r[v];
      sums[4] += f[v] * d[v];
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
  const int64_t length = l.grid.height * l.grid.width;
  const auto run = [&](auto kernel, int64_t vectors) {
    const int team = grid_team(vectors);
    const int64_t tiles = (length * team + kGridThreads - 1) / kGridThreads;
    const dim3 grid(grid_blocks(l.batch * tiles, "grid_cosine_distance"));
    launch_kernel("grid_cosine_distance", kernel, {grid, dim3(kGridThreads), 0, 1, current_stream()},
        static_cast<const scalar_t*>(l.x), l.x_batch_stride, static_cast<acc_t<scalar_t>*>(l.out),
        static_cast<unsigned>(tiles), l.grid, static_cast<int>(vectors), team);
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
