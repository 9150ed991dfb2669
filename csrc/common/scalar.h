// The type that a kernel computes in, given the type that it reads and writes.
#pragma once

namespace ssm {

template <typename scalar_t>
struct AccumulateType {
  using type = float;
};
template <>
struct AccumulateType<double> {
  using type = double;
};
template <typename scalar_t>
using acc_t = typename AccumulateType<scalar_t>::type;

}  // namespace ssm
