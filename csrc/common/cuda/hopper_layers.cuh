// Packs the weights of layers for Hopper's tensor cores, brings the pieces to shared memory in turns, and what else
// kernels of such layers share.
#pragma once

#include "common/cuda/cluster.cuh"
#include "common/cuda/hopper_layers.h"
#include "common/cuda/launch.h"
#include "common/cuda/two_layers.h"
#include "common/cuda/warpgroup.cuh"

namespace ssm {
namespace {

constexpr int kHopperPackThreads = 256;

// A thread writes 16 bytes, a row of a core.
template <typename scalar_t>
__global__ void __launch_bounds__(kHopperPackThreads) hopper_pack_kernel(HopperLayers p) {
  constexpr int kWidth = 16 / sizeof(scalar_t);
  const int64_t place = static_cast<int64_t>(blockIdx.x) * kHopperPackThreads + threadIdx.x;
  const int rows_of_piece = p.items / kWidth;
  const int piece = static_cast<int>(place / rows_of_piece), in_piece = static_cast<int>(place % rows_of_piece);
  if (piece >= p.pieces) return;
  const int chunk = min(piece / p.of_chunk(), p.chunks()), in_chunk = piece - chunk * p.of_chunk();
  const bool of_third = chunk == p.chunks(), of_first = !of_third && in_chunk < p.of_first();
  const int rows = of_third ? p.last : of_first ? p.chunk : p.out;  // of the piece, then how many the weight has
  const int of_weight = of_third ? p.last : of_first ? p.hidden : p.out;
  const int columns = of_third ? p.out : of_first ? p.channels : p.hidden;
  const int before = of_third || of_first ? in_chunk : in_chunk - p.of_first();
  const int row = in_piece % rows + (of_first ? chunk * p.chunk : 0);
  const int column =
      before * (p.items / rows) + in_piece / rows * kWidth + (of_third || of_first ? 0 : chunk * p.chunk);
  uint4 numbers = make_uint4(0, 0, 0, 0);
  if (row < of_weight && column < columns) {
    const void* weight = of_third ? p.weight3 : of_first ? p.weight1 : p.weight2;
    numbers = *reinterpret_cast<const uint4*>(
        static_cast<const scalar_t*>(weight) + static_cast<int64_t>(row) * columns + column);
  }
  static_cast<uint4*>(p.packed)[place] = numbers;
}

// Launches the kernel that packs the weights.
template <typename scalar_t>
void launch_hopper_pack(const char* op, const HopperLayers& p) {
  const int64_t rows = static_cast<int64_t>(p.pieces) * p.bytes() / 16;
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
        next_(p.stages % p.pieces),
        left_(p.stages == p.pieces ? 0 : rounds * p.pieces - p.stages) {
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
      if (p_.stages != p_.pieces) phase_ ^= 1;  // pieces that stay have come in phase 0
    }
    return address;
  }

  // Gives back the oldest piece that was taken. The warp's products with it have ended.
  __device__ __forceinline__ void give_back() {
    if (left_ == 0) return;  // none comes to this place or to a later one
    if (threadIdx.x % 32 == 0) {
      const uint32_t counter = counters_ + given_ * sizeof(unsigned);
      if (count_one(counter) % kWarps == kWarps - 1) order(given_, next_);
    }
    --left_;
    if (++given_ == p_.stages) given_ = 0;
    if (++next_ == p_.pieces) next_ = 0;
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

// Takes the pieces of a weight of kRows rows and kColumns columns, kDeep of them in a piece, and lets a product pass
// over them. prepare(piece) comes before each piece; start(step, weight) starts the product of the 16 columns `step`.
// A piece is given back while the next one's product is under way. The products have ended when this returns.
template <int kRows, int kColumns, int kDeep, int kWarps, typename Prepare, typename Start>
__device__ __forceinline__ void multiply_pieces(Pieces<kWarps>& pieces, const Prepare& prepare, const Start& start) {
  constexpr int kSteps = kDeep / kWide;
#pragma unroll
  for (int piece = 0; piece * kDeep < kColumns; ++piece) {
    prepare(piece);
    const uint64_t weight = describe(pieces.take(), kRows * 16);
    open_products();
#pragma unroll
    for (int step = 0; step < kSteps && (piece * kSteps + step) * kWide < kColumns; ++step) {
      start(piece * kSteps + step, advance(weight, step * 2 * kRows * 16));
    }
    close_products();
    if (piece > 0) {
      wait_for_products<1>();
      pieces.give_back();
    }
  }
  wait_for_products<0>();
  pieces.give_back();
}

// Starts to copy a warp's 16 tokens into the cores of its warpgroup. Eight lanes fill a core.
template <typename scalar_t, int kChannels>
__device__ __forceinline__ void copy_tokens_to_cores(char* to, const void* from, int64_t begin, int64_t tokens) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  const scalar_t* source = static_cast<const scalar_t*>(from);
#pragma unroll 1  // the compiler would keep the addresses of all copies in registers
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + half * kCoreRows + lane % kCoreRows;
    const bool exists = begin + row < tokens;
    const scalar_t* mine = source + (exists ? begin + row : 0) * kChannels;
#pragma unroll 1
    for (int column = lane / kCoreRows; column < kChannels / kCopied; column += 32 / kCoreRows) {
      copy_async_or_zero<16>(to + (column * kGroupRows + row) * 16, mine + column * kCopied, exists);
    }
  }
}

#endif

}  // namespace
}  // namespace ssm
