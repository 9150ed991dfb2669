// Sums whose terms are spread over lanes, so that they vectorise in an order that is the same on every machine.
#pragma once

#include <cstdint>

#include "common/dispatch.h"

namespace ssm {

// Adds the upper half to the lower half until one lane is left. Adding lane after lane would wait for every addition.
template <typename acc, int64_t kLanes>
SSM_INLINE acc sum_lanes(acc (&lanes)[kLanes]) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// The sum of a row of values.
template <typename acc>
SSM_INLINE acc sum_of(const acc* __restrict__ value, int64_t count) {
  constexpr int64_t kLanes = 32;
  acc lanes[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] += value[c + i];
  }
  acc sum = sum_lanes(lanes);
  for (; c < count; ++c) sum += value[c];
  return sum;
}

}  // namespace ssm
