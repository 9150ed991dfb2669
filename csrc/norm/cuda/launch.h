// What the host hands to the kernels of the norms by value, and their launchers.
#pragma once

#include "norm/cuda/tuning.h"
#include "norm/params.h"

namespace ssm {

// How the threads hold a row: as kNormThreeFours, kNormFiveFours or kNormOnes say.
enum class NormShape { kThreeFours, kFiveFours, kOnes };

struct NormLaunch : NormParams {
  NormShape shape;
  int team;        // threads of a row, a power of two
  int64_t blocks;  // of the launch
  void* partial;   // acc, contiguous [blocks, kNormParameters, channels]: each block's part of the gradients
};

template <typename scalar_t>
void launch_norm(const NormLaunch& launch);
template <typename scalar_t>
void launch_norm_backward(const NormLaunch& launch);

}  // namespace ssm
