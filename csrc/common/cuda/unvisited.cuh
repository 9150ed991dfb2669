// The device side of unvisited.h: marks the tokens that steps visit, and clears the rows of the others.
#pragma once

#include "common/cuda/reduce.cuh"
#include "common/cuda/unvisited.h"

namespace ssm {

// The tokens of a block's window. All threads of the block call its functions.
class VisitWindow {
 public:
  // `marks` are visit_bytes(length) of shared memory, which begin at a multiple of 16 bytes.
  __device__ VisitWindow(unsigned char* marks, int64_t number, int64_t length)
      : marks_(marks),
        first_(number * kVisitWindow),
        length_(length),
        size_(static_cast<int>(min(length - first_, static_cast<int64_t>(kVisitWindow)))) {}

  // Forgets all marks. Ends with a barrier.
  __device__ void start() const {
    for (int i = threadIdx.x; i < (size_ + 15) / 16; i += blockDim.x) {
      reinterpret_cast<int4*>(marks_)[i] = make_int4(0, 0, 0, 0);
    }
    __syncthreads();
  }

  // Marks the tokens of all steps. token(step) may be any number. Ends with a barrier.
  template <typename Token>
  __device__ void mark(const Token& token) const {
    const int64_t stride = blockDim.x;
    for (int64_t begin = threadIdx.x; begin < length_; begin += kVisitsAhead * stride) {
      int64_t visited[kVisitsAhead];
#pragma unroll
      for (int i = 0; i < kVisitsAhead; ++i) {
        const int64_t step = begin + i * stride;
        visited[i] = step < length_ ? token(step) : -1;
      }
#pragma unroll
      for (int i = 0; i < kVisitsAhead; ++i) {
        const uint64_t place = static_cast<uint64_t>(visited[i]) - static_cast<uint64_t>(first_);
        if (place < static_cast<uint64_t>(size_)) marks_[place] = 1;
      }
    }
    __syncthreads();
  }

  // Calls visit(token) for every token without a mark, with all lanes of a warp together.
  template <typename Visit>
  __device__ void each_unmarked(const Visit& visit) const {
    const int lane = threadIdx.x % 32;
    for (int begin = static_cast<int>(threadIdx.x) - lane; begin < size_; begin += blockDim.x) {
      const int own = begin + lane;
      unsigned missing = __ballot_sync(kFullWarp, own < size_ && marks_[own] == 0);
      for (; missing != 0; missing &= missing - 1) visit(first_ + begin + __ffs(static_cast<int>(missing)) - 1);
    }
  }

 private:
  unsigned char* marks_;
  int64_t first_, length_;
  int size_;
};

// Sets `bytes` bytes to zero, by `threads` threads of which this one is number `own`.
__device__ inline void clear_bytes(void* data, int64_t bytes, int own, int threads) {
  for (int64_t i = own; i < bytes / 2; i += threads) static_cast<uint16_t*>(data)[i] = 0;
}

// What a step that nobody takes would have written for `count` sequences of a sample, from `first` on: sets it to zero.
// By one warp.
__device__ inline void clear_token(const ScanResults& results, int64_t batch, int64_t sequences, int64_t length,
    int64_t sample, int64_t first, int64_t count, int64_t token) {
  for (const TokenRows& rows : results.rows) {
    if (rows.data == nullptr) continue;
    const int64_t row = !rows.next ? token : token + 1 < length ? token + 1 : 0, own = sequences / rows.share;
    for (int64_t part = 0; part < rows.parts; ++part) {
      for (int64_t k = first; k < first + count; k += rows.share) {
        const int64_t place = ((part * batch + sample) * own + k / rows.share) * length + row;
        clear_bytes(static_cast<char*>(rows.data) + place * rows.bytes, rows.bytes, threadIdx.x % 32, 32);
      }
    }
  }
}

}  // namespace ssm
