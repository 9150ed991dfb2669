// Copies from global to shared memory that do not pass through registers (cp.async, from sm_80 on). Older GPUs copy at
// once, so that the waits below have nothing to do.
#pragma once

#include <cstdint>

namespace ssm {

// Whether the device that is compiled for has cp.async. The host asks library_architecture.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool kAsyncCopies = false;
#else
constexpr bool kAsyncCopies = true;
#endif

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts the copy of one `Bytes`. cp.async copies 4, 8 or 16 bytes: any other size is copied at once.
template <typename Bytes>
__device__ __forceinline__ void copy_async(Bytes* to, const void* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const uint32_t target = shared_address(to);
  constexpr int kSize = sizeof(Bytes);
  if constexpr (kSize == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(from));
    return;
  } else if constexpr (kSize == 4 || kSize == 8) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(target), "l"(from), "n"(kSize));
    return;
  }
#endif
  *to = *static_cast<const Bytes*>(from);
}

// Starts the copy of kBytes if the source exists, else writes zeros; does neither if `write` is false.
template <int kBytes>
__device__ __forceinline__ void copy_async_or_zero(void* to, const void* from, bool exists, bool write = true) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  // `write` is a predicate of the instruction because the compiler would build a branch around each copy.
  if constexpr (kBytes == 16) {
    asm volatile(
        "{\n .reg .pred p;\n setp.ne.s32 p, %3, 0;\n"
        " @p cp.async.cg.shared.global [%0], [%1], 16, %2;\n}" ::"r"(shared_address(to)),
        "l"(from), "r"(exists ? 16 : 0), "r"(static_cast<int>(write))
        : "memory");
  } else {
    asm volatile(
        "{\n .reg .pred p;\n setp.ne.s32 p, %4, 0;\n"
        " @p cp.async.ca.shared.global [%0], [%1], %2, %3;\n}" ::"r"(shared_address(to)),
        "l"(from), "n"(kBytes), "r"(exists ? kBytes : 0), "r"(static_cast<int>(write))
        : "memory");
  }
#else
  struct alignas(kBytes) Piece {
    int word[kBytes / 4];
  };
  if (write) *static_cast<Piece*>(to) = exists ? *static_cast<const Piece*>(from) : Piece{};
#endif
}

// Closes a group: all copies that this thread has started since the last group.
__device__ __forceinline__ void close_copy_group() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for all groups of this thread but the last kOpen. Other threads see the copies after a barrier.
template <int kOpen>
__device__ __forceinline__ void wait_for_copy_groups() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
#endif
}

// Waits for all copies of this thread. Other threads see them after a barrier.
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

}  // namespace ssm
