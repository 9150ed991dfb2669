// Argument checks shared by every host wrapper.
#pragma once

#include <algorithm>
#include <limits>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>

#include "common/tensor.h"

namespace ssm {

// Python checks arguments first and gives the messages that users see. These checks guard the raw pointers against a
// direct call of torch.ops.

// How parts of a message are written; what is not named here, a stream writes.
template <typename T>
void write_part(std::ostream& out, const T& value) {
  out << value;
}
inline void write_part(std::ostream& out, const Sizes& sizes) {
  out << '[';
  for (size_t i = 0; i < sizes.size(); ++i) out << (i == 0 ? "" : ", ") << sizes[i];
  out << ']';
}
inline void write_part(std::ostream& out, ScalarType type) {
  out << torch::headeronly::toString(type);
}
inline void write_part(std::ostream& out, DeviceType type) {
  out << (type == kCPU ? "cpu" : type == kCUDA ? "cuda" : "other");
}
inline void write_part(std::ostream& out, const torch::stable::Device& device) {
  write_part(out, device.type());
  if (device.has_index() && device.type() != kCPU) out << ':' << device.index();
}

template <typename... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream out;
  (write_part(out, parts), ...);
  return out.str();
}

// They raise an error whose message is the parts, one after another. In Python it is a RuntimeError or an IndexError.
// No class of C++ becomes a ValueError in every release of torch: ssm_core.ops.calling makes one of the message.
#define SSM_CHECK_AS(ERROR, CONDITION, ...)   \
  do {                                        \
    if (!(CONDITION)) [[unlikely]]            \
      throw ERROR(ssm::message(__VA_ARGS__)); \
  } while (false)
#define SSM_CHECK(CONDITION, ...) SSM_CHECK_AS(std::runtime_error, CONDITION, __VA_ARGS__)
#define SSM_CHECK_INDEX(CONDITION, ...) SSM_CHECK_AS(std::out_of_range, CONDITION, __VA_ARGS__)
#define SSM_CHECK_VALUE(CONDITION, ...) SSM_CHECK(CONDITION, "ValueError: ", __VA_ARGS__)

// What torch's C functions return must be 0. They have written the reason to the standard error.
inline void check_torch(int32_t error, const char* name) {
  SSM_CHECK(error == 0, name, ": torch refused a call; the reason stands above");
}

inline bool equal(const Sizes& a, const Sizes& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

// The tensor must be on a device of the kernel's kind, and on the same one as `first`.
inline void check_device(const Tensor& tensor, DeviceType type, const Tensor& first, const char* name) {
  SSM_CHECK(tensor.device().type() == type && tensor.device() == first.device(), name, " must be on one ", type,
      " device, got ", tensor.device(), " beside ", first.device());
}

inline void check_shape(const Tensor& tensor, Sizes shape, const char* name) {
  SSM_CHECK(equal(tensor.sizes(), shape), name, " must have shape ", shape, ", got ", tensor.sizes());
}

inline void check_dtype(const Tensor& tensor, ScalarType dtype, const char* name) {
  SSM_CHECK(tensor.scalar_type() == dtype, name, " must be ", dtype, ", got ", tensor.scalar_type());
}

// Whether height · width is from 1 up to `most`. The product is not computed, because it could overflow.
inline bool is_grid(int64_t height, int64_t width, int64_t most = std::numeric_limits<int32_t>::max()) {
  return height >= 1 && width >= 1 && height <= most / width;
}

// Whether the elements of the last dimension lie side by side. Nobody reads an empty tensor, and torch gives it any
// strides, so its strides do not count.
inline bool is_adjacent(const Tensor& tensor) {
  return tensor.size(-1) <= 1 || tensor.stride(-1) == 1 || tensor.numel() == 0;
}

inline void check_contiguous(const Tensor& tensor, const char* name) {
  SSM_CHECK(tensor.is_contiguous(), name, " must be contiguous");
}

// All four checks; `first` is on the kernel's device. Returns the address.
inline const void* check_dense(
    const Tensor& tensor, const Tensor& first, Sizes shape, ScalarType dtype, const char* name) {
  check_device(tensor, first.device().type(), first, name);
  check_shape(tensor, shape, name);
  check_dtype(tensor, dtype, name);
  check_contiguous(tensor, name);
  return tensor.const_data_ptr();
}

}  // namespace ssm
