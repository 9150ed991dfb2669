// From a result's tensor to its rows, for what unvisited.h does with them.
#pragma once

#include "common/cuda/unvisited.h"
#include "common/tensor.h"

namespace ssm {

// The rows of a result: [parts, batch, sequences / share, L, last]. Dimensions of size 1 may be missing.
inline TokenRows rows_of(const Tensor& result, int64_t parts = 1, int64_t share = 1) {
  return {result.data_ptr(), static_cast<int64_t>(result.size(-1) * result.element_size()), parts, share};
}

}  // namespace ssm
