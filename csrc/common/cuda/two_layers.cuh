// What kernels of two layers share: packing the weights, and copies to shared memory.
#pragma once

#include "common/cuda/fragments.cuh"
#include "common/cuda/launch.h"
#include "common/cuda/two_layers.h"

namespace ssm {
namespace {

constexpr int kPackThreads = 256;

// Writes the weights as the passes read them. A thread writes 16 bytes. Nobody reads the bytes between two rows.
template <typename scalar_t>
__global__ void __launch_bounds__(kPackThreads) pack_kernel(TwoLayers p) {
  const int row1 = (p.channels + kRowPad) / kCopied, row2 = (kHiddenChunk + kRowPad) / kCopied;
  const int first = kHiddenChunk * row1, pieces = first + p.out * row2;
  const int64_t place = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x;
  const int chunk = static_cast<int>(place / pieces), piece = static_cast<int>(place % pieces);
  if (chunk >= p.chunks_of_all()) return;
  const bool of_first = piece < first;
  const int wide = of_first ? row1 : row2, row = (of_first ? piece : piece - first) / wide;
  const int column = (of_first ? piece : piece - first) % wide * kCopied;
  const scalar_t* from = of_first ? static_cast<const scalar_t*>(p.weight1) +
                                        (static_cast<int64_t>(chunk) * kHiddenChunk + row) * p.channels + column
                                  : static_cast<const scalar_t*>(p.weight2) + static_cast<int64_t>(row) * p.hidden +
                                        chunk * kHiddenChunk + column;
  if (column < (of_first ? p.channels : kHiddenChunk)) {
    static_cast<uint4*>(p.packed)[place] = *reinterpret_cast<const uint4*>(from);
  }
}

// Starts to copy a chunk of the packed weights. All threads of the block share the work.
template <typename scalar_t, int kChannels, int kOut>
__device__ __forceinline__ void copy_weights(const TwoLayers& p, scalar_t* to, int chunk) {
  constexpr int kPieces = chunk_items(kChannels, kOut) / kCopied;
  const uint4* from = static_cast<const uint4*>(p.packed) + static_cast<int64_t>(chunk) * kPieces + threadIdx.x;
  uint4* place = reinterpret_cast<uint4*>(to) + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kPieces; i += kLayerThreads) {
    if (i + kLayerThreads <= kPieces || i + threadIdx.x < kPieces) copy_async(place + i, from + i);
  }
}

// Starts to copy the `kRows` tokens of a warp, which nobody else reads, from `begin` on. Those that do not exist are 0.
template <typename scalar_t, int kChannels, int kRows>
__device__ __forceinline__ void copy_tokens(scalar_t* to, const void* from, int64_t begin, int64_t tokens) {
  constexpr int kPieces = kChannels / kCopied;
  const scalar_t* source = static_cast<const scalar_t*>(from);
  for (int i = threadIdx.x % 32; i < kRows * kPieces; i += 32) {
    const int row = i / kPieces, column = i % kPieces * kCopied;
    const bool exists = begin + row < tokens;
    copy_async_or_zero<16>(
        to + row * (kChannels + kRowPad) + column, source + (exists ? begin + row : 0) * kChannels + column, exists);
  }
}

template <typename scalar_t>
__device__ __forceinline__ uint32_t address_of(const scalar_t* matrix, int row, int column, int stride) {
  return shared_address(matrix + row * stride + column);
}

// The chunks of the weights in shared memory, in turns: all of them from the start, or the present one and the next.
template <typename scalar_t, int kChannels, int kOut>
class Chunks {
 public:
  __device__ Chunks(const TwoLayers& p, scalar_t* memory)
      : p_(p),
        memory_(memory),
        count_(p.chunks_of_all()),
        all_(p.chunks >= p.chunks_of_all()) {
    for (int chunk = 0; chunk < (all_ ? count_ : 1); ++chunk) {
      copy_weights<scalar_t, kChannels, kOut>(p_, memory_ + chunk * kItems, chunk);
    }
    if (all_) {
      wait_for_copies();
      __syncthreads();
    }
  }

  // The next chunk, and the warp's own copies, are there when this returns. After the last chunk comes the first one.
  // All threads of the block have to call it equally often, unless the memory holds all chunks.
  __device__ __forceinline__ const scalar_t* next() {
    const int chunk = chunk_;
    chunk_ = chunk + 1 == count_ ? 0 : chunk + 1;
    if (all_) {
      if (chunk == 0) {
        wait_for_copies();
        __syncwarp();
      }
      return memory_ + chunk * kItems;
    }
    wait_for_copies();
    __syncthreads();  // this chunk is there, and nobody reads the one before
    const scalar_t* present = memory_ + stage_ * kItems;
    stage_ ^= 1;
    copy_weights<scalar_t, kChannels, kOut>(p_, memory_ + stage_ * kItems, chunk_);
    return present;
  }

 private:
  static constexpr int kItems = chunk_items(kChannels, kOut);
  const TwoLayers& p_;
  scalar_t* memory_;
  int count_;
  bool all_;
  int chunk_ = 0, stage_ = 0;
};

// Launches the kernel that packs the weights.
template <typename scalar_t>
void launch_pack(const char* op, const TwoLayers& p) {
  const int64_t pieces = int64_t{1} * p.chunks_of_all() * (chunk_items(p.channels, p.out) / kCopied);
  const dim3 grid(grid_blocks((pieces + kPackThreads - 1) / kPackThreads, op));
  launch_kernel(op, pack_kernel<scalar_t>, {grid, dim3(kPackThreads), 0, 1, current_stream()}, p);
}

}  // namespace
}  // namespace ssm
