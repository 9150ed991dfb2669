// exp(-cosine) of the two ends of every edge of the 4-connected grid, on the CPU.

#include <utility>
#include <vector>

#include "common/cosine.h"
#include "common/cpu/lanes.h"
#include "grid_distance/inputs.h"

namespace ssm {
namespace {

template <typename scalar_t>
SSM_MULTIVERSION acc_t<scalar_t> dot(const scalar_t* __restrict__ a, const scalar_t* __restrict__ b, int64_t channels) {
  using acc = acc_t<scalar_t>;
  constexpr int64_t kLanes = 32;
  acc lanes[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] += static_cast<acc>(a[c + i]) * static_cast<acc>(b[c + i]);
  }
  acc sum = sum_lanes(lanes);
  for (; c < channels; ++c) sum += static_cast<acc>(a[c]) * static_cast<acc>(b[c]);
  return sum;
}

// One row of the grid with its edges to the right and down; `own` and `below` hold 1 / |x| of this row and the next.
template <typename scalar_t, typename acc>
void distances_of_row(
    const scalar_t* x, const acc* own, const acc* below, acc* out, const Grid& grid, int64_t row, int64_t channels) {
  const int64_t width = grid.width;
  for (int64_t column = 0; column < width; ++column) {
    const scalar_t* a = x + (row * width + column) * channels;
    if (below != nullptr) {
      out[row * width + column] = exp_minus_cosine(dot(a, a + width * channels, channels), own[column], below[column]);
    }
    if (column + 1 < width) {
      out[grid.vertical() + row * (width - 1) + column] =
          exp_minus_cosine(dot(a, a + channels, channels), own[column], own[column + 1]);
    }
  }
}

Tensor grid_cosine_distance(const Tensor& x) {
  const GridDistanceInputs in(kCPU, x);
  const GridDistanceParams& p = in.params;
  const Grid grid = p.grid;
  if (in.out.numel() == 0) return in.out;
  SSM_DISPATCH(x.scalar_type(), "grid_cosine_distance", [&] {
    using acc = acc_t<scalar_t>;
    torch::stable::parallel_for(0, p.batch * grid.height, 4, [&](int64_t begin, int64_t end) {
      std::vector<acc> own(grid.width), below(grid.width);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t sample = i / grid.height, row = i % grid.height;
        const scalar_t* features = static_cast<const scalar_t*>(p.x) + sample * p.x_batch_stride;
        const auto norms_of_row = [&](int64_t r, std::vector<acc>& norms) {
          for (int64_t column = 0; column < grid.width; ++column) {
            const scalar_t* a = features + (r * grid.width + column) * p.channels;
            norms[column] = inverse_norm(dot(a, a, p.channels));
          }
        };
        if (i == begin || row == 0) norms_of_row(row, own);
        const bool has_below = row + 1 < grid.height;
        if (has_below) norms_of_row(row + 1, below);
        distances_of_row(features, own.data(), has_below ? below.data() : nullptr,
            static_cast<acc*>(p.out) + sample * grid.edges(), grid, row, p.channels);
        std::swap(own, below);
      }
    });
  });
  return in.out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(tree_ssm, CPU, m) {
  m.impl("grid_cosine_distance", TORCH_BOX(&grid_cosine_distance));
}

}  // namespace ssm
