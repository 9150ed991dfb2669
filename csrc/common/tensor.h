// Tensors as all hosts see them: through torch's stable ABI, so that a library which is built once serves every torch
// from 2.10 on. What is here is short for calls that hosts make often.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace ssm {

using torch::headeronly::DeviceType;
using torch::headeronly::ScalarType;
using torch::stable::contiguous;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

constexpr DeviceType kCPU = DeviceType::CPU, kCUDA = DeviceType::CUDA;
constexpr ScalarType kDouble = ScalarType::Double, kFloat = ScalarType::Float, kHalf = ScalarType::Half,
                     kBFloat16 = ScalarType::BFloat16, kLong = ScalarType::Long, kInt = ScalarType::Int;

// A tensor whose values are not set, on the device of `like`.
inline Tensor empty(Sizes sizes, const Tensor& like, ScalarType dtype) {
  return torch::stable::new_empty(like, sizes, dtype);
}
inline Tensor empty(Sizes sizes, const Tensor& like) {
  return empty(sizes, like, like.scalar_type());
}

inline Tensor zeros(Sizes sizes, const Tensor& like, ScalarType dtype) {
  return torch::stable::new_zeros(like, sizes, dtype);
}
inline Tensor zeros(Sizes sizes, const Tensor& like) {
  return zeros(sizes, like, like.scalar_type());
}

// The part of a tensor at a place of its first dimension.
inline Tensor part(const Tensor& tensor, int64_t place) {
  return torch::stable::select(tensor, 0, place);
}

// The sum over the first dimension.
inline Tensor sum_parts(const Tensor& tensor) {
  const int64_t first = 0;
  return torch::stable::sum(tensor, Sizes(first));
}

inline Tensor cast(const Tensor& tensor, ScalarType dtype) {
  return torch::stable::to(tensor, dtype);
}

// The type in which values of a type are added up.
inline ScalarType sum_type(const Tensor& tensor) {
  return tensor.scalar_type() == kDouble ? kDouble : kFloat;
}

}  // namespace ssm
