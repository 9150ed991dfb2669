// The quadtree token order, and the gradient of the straight-through mask, on the CPU.

#include <algorithm>
#include <array>
#include <vector>

#include "common/cpu/lanes.h"
#include "common/dispatch.h"
#include "quadtree_order/inputs.h"

namespace ssm {
namespace {

// Writes the tokens of a window, in raster order, and returns where the next one goes.
int64_t* raster(const RolledMap& map, const Window& w, int64_t* out) {
  const int64_t height = map.height, width = map.width, start = (w.left - map.shift_x + width) % width;
  // A run of tokens up to the right edge of the map, and what the roll brings back at the left one.
  const int64_t before_edge = std::min<int64_t>(w.width, width - start);
  for (int64_t i = w.top; i < w.top + w.height; ++i) {
    const int64_t row = (i - map.shift_y + height) % height * width;
    for (int64_t j = 0; j < before_edge; ++j) *out++ = row + start + j;
    for (int64_t j = before_edge; j < w.width; ++j) *out++ = row + j - before_edge;
  }
  return out;
}

int64_t* raster_quarters(const RolledMap& map, const Window& w, int64_t* out) {
  for (int q = 0; q < 4; ++q) out = raster(map, w.quarter(q), out);
  return out;
}

void check_quadrants(const Tensor& choice) {
  if (choice.numel() == 0) return;
  const int64_t *values = choice.const_data_ptr<int64_t>(), stride = choice.stride(0);
  int64_t low = values[0], high = low;
  for (int64_t i = 0; i < choice.size(0); ++i) {
    low = std::min(low, values[i * stride]);
    high = std::max(high, values[i * stride]);
  }
  SSM_CHECK_VALUE(low >= 0 && high < 4, "quadtree_order: choice must hold quadrants 0 to 3, got ", low, " to ", high);
}

Tensor quadtree_order(
    const Tensor& choice, int64_t height, int64_t width, int64_t levels, int64_t shift_y, int64_t shift_x) {
  const QuadtreeOrderInputs in(kCPU, choice, height, width, levels, shift_y, shift_x);
  check_quadrants(choice);
  const QuadtreeOrderParams& p = in.params;
  const Window whole = p.map.whole();
  torch::stable::parallel_for(0, p.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      int64_t* out = p.order + b * whole.size();
      if (levels == 0) {
        raster(p.map, whole, out);
        continue;
      }
      for (int q = 0; q < 4; ++q) {
        const bool split = levels == 2 && q == p.choice[b * p.choice_stride];
        out = split ? raster_quarters(p.map, whole.quarter(q), out) : raster(p.map, whole.quarter(q), out);
      }
    }
  });
  return in.order;
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

// In the chosen quadrant the token at the fine place of t is t itself; in the others the token at its coarse place is.
// So every token is compared with one partner, which the other order puts there.
Tensor mask_gradient(const Tensor& a, const Tensor& b, const Tensor& choice, int64_t height, int64_t width,
    int64_t shift_y, int64_t shift_x) {
  const MaskGradientInputs in(kCPU, a, b, choice, height, width, shift_y, shift_x);
  check_quadrants(choice);
  const MaskGradientParams& p = in.params;
  const Window whole = p.map.whole();
  const int64_t length = whole.size();
  std::vector<int64_t> coarse(length), fine(length);
  std::array<int64_t, 5> first{0, 0, 0, 0, length};
  int64_t *coarse_end = coarse.data(), *fine_end = fine.data();
  for (int q = 0; q < 4; ++q) {
    first[q] = coarse_end - coarse.data();
    coarse_end = raster(p.map, whole.quarter(q), coarse_end);
    fine_end = raster_quarters(p.map, whole.quarter(q), fine_end);
  }
  SSM_DISPATCH(a.scalar_type(), "mask_gradient", [&] {
    using acc = acc_t<scalar_t>;
    torch::stable::parallel_for(0, p.batch * 4, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t sample = i / 4, q = i % 4, rows = sample * length * p.channels;
        const scalar_t* a_rows = static_cast<const scalar_t*>(p.a) + rows;
        const scalar_t* b_rows = static_cast<const scalar_t*>(p.b) + rows;
        // In the chosen quadrant the sequence holds `fine`, and t = coarse[s] is at coarse place s; elsewhere it holds
        // `coarse`, and t = fine[s] is at fine place s.
        const bool is_chosen = q == p.choice[sample * p.choice_stride];
        acc sum = 0;
        for (int64_t s = first[q]; s < first[q + 1]; ++s) {
          const int64_t t = is_chosen ? coarse[s] : fine[s];
          const int64_t partner = is_chosen ? fine[s] : coarse[s];
          const scalar_t *own = b_rows + t * p.channels, *other = b_rows + partner * p.channels;
          sum += dot_difference(a_rows + t * p.channels, is_chosen ? own : other, is_chosen ? other : own, p.channels);
        }
        static_cast<acc*>(p.gradient)[i] = sum;
      }
    });
  });
  return in.gradient;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(quadtree_ssm, CPU, m) {
  m.impl("quadtree_order", TORCH_BOX(&quadtree_order));
  m.impl("mask_gradient", TORCH_BOX(&mask_gradient));
}

}  // namespace ssm
