// Brings a thread's next row to shared memory while the thread works on the present one. Registers hold one row alone,
// and the memory never waits for the sums over a row.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "common/cuda/architecture.h"
#include "common/cuda/async_copy.cuh"
#include "common/cuda/rows.cuh"
#include "common/memory.h"
#include "common/scalar.h"

namespace ssm {

// The channels that each thread of a block has of its next row in one map (row_shape.h). A thread reads what it copied
// itself, so that no thread waits for another. The map is stored as scalar_t or, if it is wide, as acc_t<scalar_t>. Its
// rows are `stride` elements apart, or one after another.
// The present row is taken before the next one is started, unless the map has two kSlots, which rows take in turns.
// Where cp.async cannot copy, rows are read when they are taken, and the cache is asked for them when they are started.
template <typename scalar_t, int kThreads, int kVector, int kItems, int kSlots>
class RowStage {
 public:
  using acc = acc_t<scalar_t>;
  static constexpr bool kFits = kVector * sizeof(acc) == 16;  // cp.async copies 4, 8 or 16 bytes

  C10_HOST_DEVICE RowStage(const void* base, bool wide, int team, int channels, Carver& carver)
      : RowStage(base, wide, team, channels, channels, carver) {}

  C10_HOST_DEVICE RowStage(const void* base, bool wide, int team, int channels, int64_t stride, Carver& carver)
      : base_(static_cast<const char*>(base)),
        wide_(wide),
        team_(team),
        channels_(channels),
        stride_(stride),
        slots_(carver.take<char>(kFits && base != nullptr ? kSlots * slot_bytes() : 0)) {}

  // Starts the copy of the row of a turn. The copies belong to the group that is closed next (async_copy.cuh).
  __device__ __forceinline__ void start(int turn, int64_t row, bool live) const {
    if (kVector == 1 || base_ == nullptr) return;
    if (is_narrow()) {
      start_as<scalar_t>(turn, row, live);
    } else {
      start_as<acc>(turn, row, live);
    }
  }

  // The thread's vector i of the row; zeros where the row has ended, or where there is no row. The copy has arrived.
  __device__ __forceinline__ void take(int turn, int64_t row, bool live, int i, acc (&out)[kVector]) const {
    if (is_narrow()) {
      take_as<scalar_t>(turn, row, live, i, out);
    } else {
      take_as<acc>(turn, row, live, i, out);
    }
  }
  // The same of a map that may be missing: then zeros.
  __device__ __forceinline__ void take_or_zeros(int turn, int64_t row, bool live, int i, acc (&out)[kVector]) const {
    if (base_ != nullptr) return take(turn, row, live, i, out);
#pragma unroll
    for (int v = 0; v < kVector; ++v) out[v] = 0;
  }
  // All of the thread's vectors. There is one branch for them, so that they are on their way together.
  __device__ __forceinline__ void take(int turn, int64_t row, bool live, acc (&out)[kItems][kVector]) const {
    if (is_narrow()) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) take_as<scalar_t>(turn, row, live, i, out[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kItems; ++i) take_as<acc>(turn, row, live, i, out[i]);
    }
  }

 private:
  static constexpr bool kCopies = kFits && kAsyncCopies;

  const char* base_;
  bool wide_;
  int team_, channels_;
  int64_t stride_;
  char* slots_;

  C10_HOST_DEVICE bool is_narrow() const { return !std::is_same_v<scalar_t, acc> && !wide_; }
  C10_HOST_DEVICE size_t slot_bytes() const {
    return kThreads * kItems * kVector * (is_narrow() ? sizeof(scalar_t) : sizeof(acc));
  }

  __device__ __forceinline__ int channel(int i) const { return (i * team_ + lane_of_team(team_)) * kVector; }

  template <typename stored_t>
  __device__ __forceinline__ char* slot(int turn, int i) const {
    const int number = (turn % kSlots * kItems + i) * kThreads + threadIdx.x;
    return slots_ + number * static_cast<int>(kVector * sizeof(stored_t));
  }

  template <typename stored_t>
  __device__ __forceinline__ void start_as(int turn, int64_t row, bool live) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const bool exists = live && channel(i) < channels_;
      const int64_t at = row * stride_ + channel(i);
      if constexpr (kCopies) {
        copy_async_or_zero<kVector * sizeof(stored_t)>(slot<stored_t>(turn, i), base_ + at * sizeof(stored_t), exists);
      } else if (exists) {
        prefetch<stored_t>(base_, at);
      }
    }
  }

  template <typename stored_t>
  __device__ __forceinline__ void take_as(int turn, int64_t row, bool live, int i, acc (&out)[kVector]) const {
    if constexpr (kCopies) {
      load<acc, stored_t>(slot<stored_t>(turn, i), 0, out);
    } else if (live && channel(i) < channels_) {
      load<acc, stored_t>(base_, row * stride_ + channel(i), out);
    } else {
#pragma unroll
      for (int v = 0; v < kVector; ++v) out[v] = 0;
    }
  }
};

// The bytes of shared memory that the stages of a launch take, if the library's kernels copy rows ahead at all.
inline size_t stage_bytes(size_t bytes, const char* op) {
  return library_architecture(op) >= kFirstWithAsyncCopies ? bytes : 0;
}

}  // namespace ssm
