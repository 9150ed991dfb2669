// exp(-cosine) of the two ends of every edge of the 4-connected grid, on the CPU.
#include "../grid_distance.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../dispatch.h"

namespace ssm {
namespace {

template <typename scalar_t>
SSM_MULTIVERSION acc_t<scalar_t> dot(const scalar_t* a, const scalar_t* b, int64_t channels) {
  using acc = acc_t<scalar_t>;
  constexpr int64_t kLanes = 32;
  acc lanes[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] += static_cast<acc>(a[c + i]) * static_cast<acc>(b[c + i]);
  }
  acc sum = 0;
  for (; c < channels; ++c) sum += static_cast<acc>(a[c]) * static_cast<acc>(b[c]);
  for (int64_t i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

// One row of the grid with its edges to the right and down; `squares` holds |x|² of this row and the next.
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

at::Tensor grid_cosine_distance(const at::Tensor& x) {
  check_features(x, at::kCPU);
  const Grid grid{x.size(1), x.size(2)};
  const int64_t channels = x.size(3), length = grid.height * grid.width;
  at::Tensor out = empty_distances(x, grid);
  if (out.numel() == 0) return out;
  at::Tensor squares = at::empty({x.size(0), length}, out.options());
  SSM_DISPATCH(x.scalar_type(), "grid_cosine_distance", [&] {
    using acc = acc_t<scalar_t>;
    const scalar_t* features = x.const_data_ptr<scalar_t>();
    acc* norms = squares.mutable_data_ptr<acc>();
    const auto over_rows = [&](auto run) {
      at::parallel_for(0, x.size(0) * grid.height, 4, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) run(i / grid.height, i % grid.height);
      });
    };
    over_rows([&](int64_t sample, int64_t row) {
      for (int64_t v = sample * length + row * grid.width; v < sample * length + (row + 1) * grid.width; ++v) {
        norms[v] = dot(features + v * channels, features + v * channels, channels);
      }
    });
    over_rows([&](int64_t sample, int64_t row) {
      const acc* own = norms + sample * length + row * grid.width;
      distances_of_row(features + sample * length * channels, own, row + 1 < grid.height ? own + grid.width : nullptr,
          out.mutable_data_ptr<acc>() + sample * grid.edges(), grid, row, channels);
    });
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CPU, m) {
  m.impl("grid_cosine_distance", &grid_cosine_distance);
}

}  // namespace ssm
