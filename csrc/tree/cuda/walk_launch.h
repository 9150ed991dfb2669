// What the host hands by value to the kernels of a walk, whatever is scanned.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/cuda/device.h"
#include "tree/cuda/schedule.h"
#include "tree/cuda/tuning.h"
#include "tree/params.h"

namespace ssm {

// Params is a TreeShape and what is scanned.
template <typename Params>
struct WalkLaunch : Params {
  int64_t cut;  // see ScheduleLayout; 0 where trees are walked whole
  bool backward;
  bool aligned;         // whether every row begins at a multiple of 16 bytes
  int slices;           // blocks of channels
  const int* schedule;  // [batch, ScheduleLayout::words()]
  void* piece_sums;     // see TrunkLaunch; null where trees are walked whole

  constexpr ScheduleLayout layout() const { return {Params::length, cut}; }
  constexpr int64_t most_pieces() const { return cut ? layout().most_pieces() : 1; }
  // Whether half types should take one channel a thread as well. A warp takes the same time for a step whatever else
  // its multiprocessor does, so that few warps gain nothing by two.
  bool prefers_narrow() const {
    const int64_t walks = Params::batch * (cut ? Params::length / cut : 1);
    return walks * ((Params::channels + kWarp - 1) / kWarp) <= kFewWarps * multiprocessors();
  }
};

// Channels of a thread.
template <typename scalar_t, typename Params>
int walk_width(const WalkLaunch<Params>& l) {
  return sizeof(scalar_t) == 2 && l.aligned && !l.prefers_narrow() ? 2 : 1;
}

// Calls `launch(width, aligned)`, both as types, for the kernel that fits. Aligned rows have kernels with one channel a
// thread and, in half types, with two; other rows have kernels with one channel. There are no more than these, since
// each is compiled for every scan, direction and architecture, with either ring and in pieces. Double has the same as
// float, although no model runs in it: in double the tests can tell a wrong row from a rounded one.
template <typename scalar_t, typename Params, typename Launch>
void with_walk_shape(const WalkLaunch<Params>& l, const Launch& launch) {
  using std::integral_constant;
  if constexpr (sizeof(scalar_t) == 2) {
    if (walk_width<scalar_t>(l) == 2) return launch(integral_constant<int, 2>(), std::true_type());
  }
  if (l.aligned) return launch(integral_constant<int, 1>(), std::true_type());
  launch(integral_constant<int, 1>(), std::false_type());
}

}  // namespace ssm
