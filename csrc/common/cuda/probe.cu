#include "common/cuda/probe.h"

#include <cuda_runtime.h>

namespace ssm {
namespace {

__global__ void probe() {}

}  // namespace

const void* probe_kernel() {
  return reinterpret_cast<const void*>(&probe);
}

}  // namespace ssm
