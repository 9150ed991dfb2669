// Messages between the blocks of a cluster, each with a barrier that counts the bytes that arrive (sm_90).
#pragma once

#include <cstdint>

#include "common/cuda/async_copy.cuh"

namespace ssm {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
// By one thread, for barriers in the block's own shared memory. Other blocks may use them after meet_cluster().
__device__ __forceinline__ void init_barriers(uint64_t* barriers, unsigned count) {
  for (unsigned i = 0; i < count; ++i) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barriers + i)));
  }
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// All threads of the cluster meet. The arrival is relaxed, since the fence of init_barriers has ordered what other
// blocks need and a full release would wait for all of memory.
__device__ __forceinline__ void meet_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address that a place in this block's shared memory has in the block `rank` of the cluster.
__device__ __forceinline__ unsigned in_block(unsigned address, int rank) {
  unsigned mapped;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}

// Writes two numbers to another block's shared memory and counts them at that block's barrier.
__device__ __forceinline__ void send(unsigned to, unsigned barrier, float first, float second) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(to),
      "f"(first), "f"(second), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void send(unsigned to, unsigned barrier, double first, double second) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f64 [%0], {%1, %2}, [%3];" ::"r"(to),
      "d"(first), "d"(second), "r"(barrier)
      : "memory");
}

// By one thread: the present phase of the block's own barrier ends when so many bytes have arrived.
__device__ __forceinline__ void expect_bytes(unsigned barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Waits for the end of the phase, 0 and 1 in turn.
__device__ __forceinline__ void wait_for_bytes(unsigned barrier, unsigned phase) {
  unsigned done = 0;
  while (!done) {
    asm volatile(
        "{\n .reg .pred p;\n"
        " mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        " selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(phase)
        : "memory");
  }
}
#endif

}  // namespace ssm
