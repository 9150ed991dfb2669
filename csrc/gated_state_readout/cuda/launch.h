// What the host hands to the kernels of the state's readout with a gated norm by value, and their launchers.
#pragma once

#include "gated_state_readout/cuda/tuning.h"
#include "gated_state_readout/params.h"

namespace ssm {

struct GatedReadoutLaunch : GatedReadoutParams {
  bool fours;      // whether a thread holds its channels as kGatedReadoutFours says, or else as kGatedReadoutOnes
  int team;        // threads of a row, a power of two
  int64_t blocks;  // of the launch
  void* partial;   // acc, contiguous [blocks, kGatedReadoutParameters, channels]: each block's part of the gradients
  void* grad_parameters[kGatedReadoutParameters];  // acc, contiguous [channels]
};

template <typename scalar_t>
void launch_gated_readout(const GatedReadoutLaunch& launch);
template <typename scalar_t>
void launch_gated_readout_backward(const GatedReadoutLaunch& launch);

}  // namespace ssm
