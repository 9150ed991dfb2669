// The host side that the CPU and the CUDA kernels of the quadtree order share: checks, results, and tensors to raw
// pointers.
#pragma once

#include <limits>

#include "common/checks.h"
#include "quadtree_order/params.h"

namespace ssm {

inline RolledMap rolled_map(int64_t height, int64_t width, int64_t shift_y, int64_t shift_x) {
  SSM_CHECK(is_grid(height, width), "the map must have 1 to 2^31 - 1 tokens, got ", height, " by ", width);
  const auto wrap = [](int64_t shift, int64_t size) { return static_cast<int>((shift % size + size) % size); };
  return {static_cast<int>(height), static_cast<int>(width), wrap(shift_y, height), wrap(shift_x, width)};
}

// Values of `choice` are not checked here, since that would wait for a GPU.
inline void check_choice(const Tensor& choice, DeviceType device) {
  check_device(choice, device, choice, "choice");
  check_dtype(choice, kLong, "choice");
  SSM_CHECK(choice.dim() == 1, "choice must be a vector, got ", choice.sizes());
}

struct QuadtreeOrderInputs {
  Tensor order;
  QuadtreeOrderParams params;

  QuadtreeOrderInputs(DeviceType device, const Tensor& choice, int64_t height, int64_t width, int64_t levels,
      int64_t shift_y, int64_t shift_x) {
    check_choice(choice, device);
    SSM_CHECK(levels >= 0 && levels <= 2, "levels must be 0, 1 or 2, got ", levels);
    const RolledMap map = rolled_map(height, width, shift_y, shift_x);
    order = empty({choice.size(0), height * width}, choice);
    params = {map, static_cast<int>(levels), choice.size(0), choice.const_data_ptr<int64_t>(), choice.stride(0),
        order.mutable_data_ptr<int64_t>()};
  }
};

struct MaskGradientInputs {
  Tensor gradient;
  MaskGradientParams params;

  MaskGradientInputs(DeviceType device, const Tensor& a, const Tensor& b, const Tensor& choice, int64_t height,
      int64_t width, int64_t shift_y, int64_t shift_x) {
    check_choice(choice, device);
    const RolledMap map = rolled_map(height, width, shift_y, shift_x);
    SSM_CHECK(a.dim() == 3 && a.size(2) <= std::numeric_limits<int>::max(),
        "a must be [B, L, D] with fewer than 2^31 channels, got ", a.sizes());
    for (const auto& t : {a, b}) {
      check_device(t, device, choice, "a and b");
      check_shape(t, {choice.size(0), height * width, a.size(2)}, "a and b");
      check_dtype(t, a.scalar_type(), "a and b");
      check_contiguous(t, "a and b");
    }
    const auto dtype = sum_type(a);
    gradient = empty({choice.size(0), 4}, a, dtype);
    params = {map, choice.size(0), a.size(2), a.const_data_ptr(), b.const_data_ptr(), choice.const_data_ptr<int64_t>(),
        choice.stride(0), gradient.data_ptr()};
  }
};

}  // namespace ssm
