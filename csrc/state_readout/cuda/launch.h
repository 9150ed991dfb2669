// What the host hands to the kernels of the state's readout by value, and their launchers.
#pragma once

#include "state_readout/cuda/tuning.h"
#include "state_readout/params.h"

namespace ssm {

struct ReadoutLaunch : ReadoutParams {
  int team;       // threads to a row, a power of two
  void* partial;  // acc, contiguous [blocks, kReadoutParameters, channels]: each block's part of the gradients
  void *grad_weight, *grad_bias, *grad_D;  // acc, contiguous [channels]
};

constexpr int64_t readout_blocks(const ReadoutLaunch& launch, int64_t most) {
  return blocks_of_rows(launch.rows, kReadoutThreads, launch.team, most);
}

// A thread holds its channels as kFours says, or else as kOnes does.
template <typename scalar_t>
void launch_readout(const ReadoutLaunch& launch, bool fours, int64_t blocks);
template <typename scalar_t>
void launch_readout_backward(const ReadoutLaunch& launch, bool fours, int64_t blocks);

}  // namespace ssm
