// Argument checks shared by every host wrapper.
#pragma once

#include <ATen/core/Tensor.h>

#include <limits>

namespace ssm {

// Python checks arguments first and gives the messages that users see. These checks guard the raw pointers against a
// direct call of torch.ops.

// The tensor must be on a device of the kernel's kind, and on the same one as `first`.
inline void check_device(const at::Tensor& tensor, c10::DeviceType type, const at::Tensor& first, const char* name) {
  TORCH_CHECK(tensor.device().type() == type && tensor.device() == first.device(), name, " must be on one ", type,
      " device, got ", tensor.device(), " beside ", first.device());
}

inline void check_shape(const at::Tensor& tensor, at::IntArrayRef shape, const char* name) {
  TORCH_CHECK(tensor.sizes() == shape, name, " must have shape ", shape, ", got ", tensor.sizes());
}

inline void check_dtype(const at::Tensor& tensor, at::ScalarType dtype, const char* name) {
  TORCH_CHECK(tensor.scalar_type() == dtype, name, " must be ", dtype, ", got ", tensor.scalar_type());
}

// Whether height · width is from 1 up to `most`. The product is not computed, because it could overflow.
inline bool is_grid(int64_t height, int64_t width, int64_t most = std::numeric_limits<int32_t>::max()) {
  return height >= 1 && width >= 1 && height <= most / width;
}

// Whether the elements of the last dimension lie side by side. Nobody reads an empty tensor, and torch gives it any
// strides, so its strides do not count.
inline bool is_adjacent(const at::Tensor& tensor) {
  return tensor.size(-1) <= 1 || tensor.stride(-1) == 1 || tensor.numel() == 0;
}

inline void check_contiguous(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

}  // namespace ssm
