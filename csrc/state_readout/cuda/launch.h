// What the host hands to the kernels of the state's readout by value, and their launchers.
#pragma once

#include <cstdint>

namespace ssm {

constexpr int kReadoutThreads = 128;   // of a block
constexpr int kReadoutParameters = 3;  // they and the sums of their gradients lie in shared memory

// A row is shared by `team` threads (a power of two), each of which holds ReadoutShape::items vectors of its channels.
struct ReadoutLaunch {
  const void *h, *x, *C, *grad_y;
  const void *D, *weight, *bias;
  void *y, *grad_h, *grad_x, *grad_C, *partial;
  int64_t rows, length, C_batch_stride, C_token_stride;
  int channels, team;
  double eps;
};

struct ReadoutShape {
  int width, items;  // channels of a vector, vectors of a thread

  // Threads to a row; 0 if a block has too few.
  constexpr int team(int64_t channels) const {
    int team = 1;
    while (team <= kReadoutThreads && static_cast<int64_t>(team) * width * items < channels) team *= 2;
    return team <= kReadoutThreads ? team : 0;
  }
};
constexpr ReadoutShape kFours{4, 5}, kOnes{1, 8};

constexpr int64_t readout_blocks(const ReadoutLaunch& launch, int64_t most) {
  const int64_t teams = kReadoutThreads / launch.team, all = (launch.rows + teams - 1) / teams;
  return all < most ? all : most;
}

// With kFours, or else with kOnes.
template <typename scalar_t>
void launch_readout(const ReadoutLaunch& launch, bool fours, int64_t blocks);
template <typename scalar_t>
void launch_readout_backward(const ReadoutLaunch& launch, bool fours, int64_t blocks);

}  // namespace ssm
