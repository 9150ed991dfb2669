// Packs the weights of two layers for Hopper's tensor cores, and brings the pieces to shared memory in turns.
#pragma once

#include "common/cuda/cluster.cuh"
#include "common/cuda/hopper_layers.h"
#include "common/cuda/launch.h"
#include "common/cuda/warpgroup.cuh"

namespace ssm {
namespace {

constexpr int kHopperPackThreads = 256;

// A thread writes 16 bytes, a row of a core.
template <typename scalar_t>
__global__ void __launch_bounds__(kHopperPackThreads) hopper_pack_kernel(HopperLayers p) {
  constexpr int kWidth = 16 / sizeof(scalar_t);
  const int64_t place = static_cast<int64_t>(blockIdx.x) * kHopperPackThreads + threadIdx.x;
  const int rows_of_piece = p.items() / kWidth;
  const int piece = static_cast<int>(place / rows_of_piece), in_piece = static_cast<int>(place % rows_of_piece);
  if (piece >= p.pieces()) return;
  const bool of_first = piece % 2 == 0;
  const int rows = of_first ? p.chunk : p.channels;
  const int row = in_piece % rows, column = in_piece / rows * kWidth, begin = piece / 2 * p.chunk;
  uint4 numbers = make_uint4(0, 0, 0, 0);
  if (begin + (of_first ? row : column) < p.hidden) {
    const scalar_t* from =
        of_first ? static_cast<const scalar_t*>(p.weight1) + static_cast<int64_t>(begin + row) * p.channels + column
                 : static_cast<const scalar_t*>(p.weight2) + static_cast<int64_t>(row) * p.hidden + begin + column;
    numbers = *reinterpret_cast<const uint4*>(from);
  }
  static_cast<uint4*>(p.packed)[place] = numbers;
}

// Launches the kernel that packs the weights.
template <typename scalar_t>
void launch_hopper_pack(const char* op, const HopperLayers& p) {
  const int64_t rows = static_cast<int64_t>(p.pieces()) * p.bytes() / 16;
  const dim3 grid(grid_blocks((rows + kHopperPackThreads - 1) / kHopperPackThreads, op));
  launch_kernel(op, hopper_pack_kernel<scalar_t>, {grid, dim3(kHopperPackThreads), 0, 1, current_stream()}, p);
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// The pieces in shared memory, in turns: all warps of the block take each piece and give it back, in the same order but
// at their own pace. The last warp that gives a piece back orders the next one for its place. If the memory holds all
// pieces, they stay.
template <int kWarps>
class Pieces {
 public:
  // By all threads, after the barriers and counters of the stages were set up. `rounds` is how often the block goes
  // through all pieces.
  __device__ Pieces(const HopperLayers& p, uint32_t memory, uint32_t barriers, uint32_t counters, int rounds)
      : p_(p),
        memory_(memory),
        barriers_(barriers),
        counters_(counters),
        next_(p.stages % p.pieces()),
        left_(p.stages == p.pieces() ? 0 : rounds * p.pieces() - p.stages) {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < p.stages; ++stage) order(stage, stage);
    }
  }

  // Waits for the next piece and returns its address.
  __device__ __forceinline__ uint32_t take() {
    wait_for_bytes(barriers_ + taken_ * sizeof(uint64_t), phase_);
    const uint32_t address = memory_ + taken_ * p_.bytes();
    if (++taken_ == p_.stages) {
      taken_ = 0;
      if (p_.stages != p_.pieces()) phase_ ^= 1;  // pieces that stay have come in phase 0
    }
    return address;
  }

  // Gives back the oldest piece that was taken. The warp's products with it have ended.
  __device__ __forceinline__ void give_back() {
    if (left_ > 0) {
      if (threadIdx.x % 32 == 0) {
        const uint32_t counter = counters_ + given_ * sizeof(unsigned);
        if (count_one(counter) % kWarps == kWarps - 1) order(given_, next_);
      }
      --left_;
    }
    if (++given_ == p_.stages) given_ = 0;
    if (++next_ == p_.pieces()) next_ = 0;
  }

 private:
  __device__ __forceinline__ void order(int stage, int piece) {
    const uint32_t barrier = barriers_ + stage * sizeof(uint64_t);
    expect_bytes(barrier, p_.bytes());
    copy_bulk(memory_ + stage * p_.bytes(),
        static_cast<const char*>(p_.packed) + static_cast<size_t>(piece) * p_.bytes(), p_.bytes(), barrier);
  }

  const HopperLayers& p_;
  uint32_t memory_, barriers_, counters_;
  int next_, left_;  // the piece that comes to the place given back next, and how many are still to come
  int taken_ = 0, given_ = 0;
  unsigned phase_ = 0;
};

#endif

}  // namespace
}  // namespace ssm
