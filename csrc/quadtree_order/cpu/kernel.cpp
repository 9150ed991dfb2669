// The quadtree token order, and the gradient of the straight-through mask, on the CPU.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <vector>

#include "common/checks.h"
#include "common/cpu/lanes.h"
#include "common/dispatch.h"

namespace ssm {
namespace {

struct Window {
  int64_t top, left, height, width;
};

// The four windows of a map, in raster order, cut at ceil(size / 2).
std::array<Window, 4> quarter(const Window& w) {
  const int64_t row = (w.height + 1) / 2, col = (w.width + 1) / 2;
  return {{{w.top, w.left, row, col}, {w.top, w.left + col, row, w.width - col},
      {w.top + row, w.left, w.height - row, col}, {w.top + row, w.left + col, w.height - row, w.width - col}}};
}

// The map's geometry: the partition is laid over the map rolled by `shift`.
struct Map {
  int64_t height, width, shift_y, shift_x;

  Map(int64_t height, int64_t width, int64_t shift_y, int64_t shift_x)
      : height(height),
        width(width),
        shift_y((shift_y % height + height) % height),
        shift_x((shift_x % width + width) % width) {}

  Window whole() const { return {0, 0, height, width}; }

  int64_t* raster(const Window& w, int64_t* out) const {
    for (int64_t i = w.top; i < w.top + w.height; ++i) {
      // A run of tokens up to the right edge of the map, and what the roll brings back at the left one.
      const int64_t row = (i - shift_y + height) % height * width, start = (w.left - shift_x + width) % width;
      const int64_t before_edge = std::min(w.width, width - start);
      for (int64_t j = 0; j < before_edge; ++j) *out++ = row + start + j;
      for (int64_t j = before_edge; j < w.width; ++j) *out++ = row + j - before_edge;
    }
    return out;
  }

  int64_t* raster_quarters(const Window& w, int64_t* out) const {
    for (const Window& part : quarter(w)) out = raster(part, out);
    return out;
  }
};

void check_choice(const at::Tensor& choice) {
  check_device(choice, at::kCPU, choice, "choice");
  check_dtype(choice, at::kLong, "choice");
  TORCH_CHECK(choice.dim() == 1, "choice must be a vector, got ", choice.sizes());
  if (choice.numel() == 0) return;
  const auto [low, high] = at::aminmax(choice);
  TORCH_CHECK_VALUE(low.item<int64_t>() >= 0 && high.item<int64_t>() < 4,
      "quadtree_order: choice must hold quadrants 0 to 3, got ", low.item<int64_t>(), " to ", high.item<int64_t>());
}

at::Tensor quadtree_order(
    const at::Tensor& choice, int64_t height, int64_t width, int64_t levels, int64_t shift_y, int64_t shift_x) {
  check_choice(choice);
  TORCH_CHECK(height > 0 && width > 0 && levels >= 0 && levels <= 2, "bad geometry");
  const at::Tensor chosen = choice.contiguous();
  const int64_t* quadrant = chosen.const_data_ptr<int64_t>();
  at::Tensor order = at::empty({choice.size(0), height * width}, choice.options());
  int64_t* rows = order.data_ptr<int64_t>();
  const Map map(height, width, shift_y, shift_x);
  at::parallel_for(0, choice.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      int64_t* out = rows + b * height * width;
      if (levels == 0) {
        map.raster(map.whole(), out);
        continue;
      }
      const auto quadrants = quarter(map.whole());
      for (int64_t q = 0; q < 4; ++q) {
        const bool split = levels == 2 && q == quadrant[b];
        out = split ? map.raster_quarters(quadrants[q], out) : map.raster(quadrants[q], out);
      }
    }
  });
  return order;
}

template <typename scalar_t>
SSM_MULTIVERSION acc_t<scalar_t> dot_difference(
    const scalar_t* a, const scalar_t* plus, const scalar_t* minus, int64_t channels) {
  constexpr int kLanes = 16;
  acc_t<scalar_t> lanes[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    for (int i = 0; i < kLanes; ++i) {
      lanes[i] += static_cast<acc_t<scalar_t>>(a[c + i]) *
                  (static_cast<acc_t<scalar_t>>(plus[c + i]) - static_cast<acc_t<scalar_t>>(minus[c + i]));
    }
  }
  acc_t<scalar_t> sum = 0;
  for (; c < channels; ++c) {
    sum += static_cast<acc_t<scalar_t>>(a[c]) *
           (static_cast<acc_t<scalar_t>>(plus[c]) - static_cast<acc_t<scalar_t>>(minus[c]));
  }
  return sum + sum_lanes(lanes);
}

// Within the chosen quadrant the token at the fine place of t is t itself; elsewhere the one at its coarse place is. So
// each quadrant compares every token with the one partner that the other order puts there.
at::Tensor mask_gradient(const at::Tensor& a, const at::Tensor& b, const at::Tensor& choice, int64_t height,
    int64_t width, int64_t shift_y, int64_t shift_x) {
  check_choice(choice);
  const int64_t batch = choice.size(0), length = height * width;
  TORCH_CHECK(a.dim() == 3, "a must be 3-D");
  const int64_t channels = a.size(2);
  for (const auto& t : {a, b}) {
    check_device(t, at::kCPU, choice, "a and b");
    check_shape(t, {batch, length, channels}, "a and b");
    check_dtype(t, a.scalar_type(), "a and b");
    check_contiguous(t, "a and b");
  }
  const at::Tensor chosen = choice.contiguous();
  const int64_t* quadrant = chosen.const_data_ptr<int64_t>();
  const Map map(height, width, shift_y, shift_x);
  std::vector<int64_t> coarse(length), fine(length);
  std::array<int64_t, 5> first{0, 0, 0, 0, length};
  int64_t *coarse_end = coarse.data(), *fine_end = fine.data();
  const auto quadrants = quarter(map.whole());
  for (int64_t q = 0; q < 4; ++q) {
    first[q] = coarse_end - coarse.data();
    coarse_end = map.raster(quadrants[q], coarse_end);
    fine_end = map.raster_quarters(quadrants[q], fine_end);
  }
  const auto dtype = a.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor gradient = at::empty({batch, 4}, a.options().dtype(dtype));
  SSM_DISPATCH(a.scalar_type(), "mask_gradient", [&] {
    using acc = acc_t<scalar_t>;
    at::parallel_for(0, batch * 4, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t sample = i / 4, q = i % 4;
        const scalar_t* a_rows = a.const_data_ptr<scalar_t>() + sample * length * channels;
        const scalar_t* b_rows = b.const_data_ptr<scalar_t>() + sample * length * channels;
        acc sum = 0;
        for (int64_t s = first[q]; s < first[q + 1]; ++s) {
          // In the chosen quadrant the sequence holds `fine`, and t = coarse[s] is at coarse place s; elsewhere it
          // holds `coarse`, and t = fine[s] is at fine place s.
          const bool is_chosen = q == quadrant[sample];
          const int64_t t = is_chosen ? coarse[s] : fine[s];
          const int64_t partner = is_chosen ? fine[s] : coarse[s];
          const scalar_t *own = b_rows + t * channels, *other = b_rows + partner * channels;
          sum += dot_difference(a_rows + t * channels, is_chosen ? own : other, is_chosen ? other : own, channels);
        }
        gradient.data_ptr<acc>()[i] = sum;
      }
    });
  });
  return gradient;
}

}  // namespace

TORCH_LIBRARY_IMPL(quadtree_ssm, CPU, m) {
  m.impl("quadtree_order", &quadtree_order);
  m.impl("mask_gradient", &mask_gradient);
}

}  // namespace ssm
