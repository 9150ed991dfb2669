// How the summaries of the chunks of a sequence travel between threads, warps and the blocks of a cluster. A summary is
// the pair (decay, state) of h ← decay · h + state. "From the left" follows the walk, "from the right" goes against it.
#pragma once

#include "selective_scan_block.cuh"

namespace ssm {

constexpr unsigned kFullWarp = 0xffffffffu;

template <typename acc>
struct alignas(2 * sizeof(acc)) Pair {
  acc decay, state;
};

// The pair that applies `first` and then `second`.
template <typename acc>
__device__ __forceinline__ Pair<acc> compose(const Pair<acc>& first, const Pair<acc>& second) {
  return {first.decay * second.decay, second.decay * first.state + second.state};
}

// The summaries of one exchange, by channel of the tile; two sets, so that one barrier an exchange is enough. A set is
// written again only after an exchange in between, which every reader of the set has joined.
template <typename acc, int kVector, int kSides>
struct ExchangeBuffers {
  uint64_t arrived[2];  // mbarriers: the other blocks' summaries are here
  Pair<acc> warp[2][kSides][kMaxWarps][kLanes * kVector];
  Pair<acc> block[2][kSides][kMaxCluster][kLanes * kVector];
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void send(unsigned to, unsigned barrier, const Pair<float>& value) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(to),
      "f"(value.decay), "f"(value.state), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ void send(unsigned to, unsigned barrier, const Pair<double>& value) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f64 [%0], {%1, %2}, [%3];" ::"r"(to),
      "d"(value.decay), "d"(value.state), "r"(barrier)
      : "memory");
}
__device__ __forceinline__ unsigned in_block(unsigned address, int rank) {
  unsigned mapped;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
  return mapped;
}
#endif

// Before the first exchange. Blocks before sm_90 are never in a cluster: the host sees to that.
template <typename Buffers>
__device__ __forceinline__ void start_exchanges(const ScanLaunch& a, Buffers& buffers) {
  __syncthreads();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (a.phase == Phase::kWhole && a.chunks > 1) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < 2; ++i) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&buffers.arrived[i])));
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    // Relaxed: the fence has ordered what other blocks need, and a full release would wait for all of memory.
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
  }
#endif
}

// Scans the rows of a warp. Returns what comes in at this thread within the warp; the warp's total goes to `totals`.
template <bool kFromRight, int kVector, typename acc>
__device__ __forceinline__ void scan_warp(
    Pair<acc> (&pair)[kVector], Pair<acc> (*totals)[kLanes * kVector], const Place<kVector>& place) {
  constexpr int kRows = 32 / kLanes;
  const int row = threadIdx.x % 32 / kLanes;
  const int rank = kFromRight ? kRows - 1 - row : row;
  const auto neighbour = [](acc value, int offset) {
    return kFromRight ? __shfl_down_sync(kFullWarp, value, offset * kLanes)
                      : __shfl_up_sync(kFullWarp, value, offset * kLanes);
  };
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
#pragma unroll
    for (int offset = 1; offset < kRows; offset *= 2) {
      const Pair<acc> before{neighbour(pair[v].decay, offset), neighbour(pair[v].state, offset)};
      if (rank >= offset) pair[v] = compose(before, pair[v]);
    }
    if (rank == kRows - 1) totals[place.warp][place.lane * kVector + v] = pair[v];
    const Pair<acc> before{neighbour(pair[v].decay, 1), neighbour(pair[v].state, 1)};
    pair[v] = rank == 0 ? Pair<acc>{acc(1), acc(0)} : before;
  }
}

// Scans the warps' totals: `pair` becomes what comes in at this thread within the block. The last warp of the walk has
// the block's total: it returns it in `total`.
template <bool kFromRight, int kVector, typename acc>
__device__ __forceinline__ bool scan_block(Pair<acc> (&pair)[kVector], Pair<acc> (&total)[kVector],
    const Pair<acc> (*totals)[kLanes * kVector], const Place<kVector>& place) {
  const int warps = blockDim.x / 32;
  const int rank = kFromRight ? warps - 1 - place.warp : place.warp;
  const Pair<acc>* from = totals[kFromRight ? warps - 1 : 0] + place.lane * kVector;
  constexpr int kStride = kFromRight ? -kLanes * kVector : kLanes * kVector;
  Pair<acc> before[kVector];
#pragma unroll
  for (int v = 0; v < kVector; ++v) before[v] = {acc(1), acc(0)};
  for (int w = 0; w < rank; ++w, from += kStride) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) before[v] = compose(before[v], from[v]);
  }
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    pair[v] = compose(before[v], pair[v]);
    total[v] = compose(before[v], from[v]);
  }
  return rank == warps - 1;
}

// Called by all threads of one warp: the block's total to every block of the cluster, a row of the warp for each.
template <int kVector, typename acc>
__device__ __forceinline__ void send_to_cluster(const ScanLaunch& a, const Place<kVector>& place,
    Pair<acc> (*block)[kLanes * kVector], uint64_t* arrived, const Pair<acc> (&total)[kVector]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  for (int r = threadIdx.x % 32 / kLanes; r < a.chunks; r += 32 / kLanes) {
    const unsigned barrier = in_block(shared_address(arrived), r);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      send(in_block(shared_address(&block[place.chunk][place.lane * kVector + v]), r), barrier, total[v]);
    }
  }
#endif
}

// Called by one thread an exchange: how much the other blocks, and this one, will send.
template <typename Buffers>
__device__ __forceinline__ void expect_from_cluster(const ScanLaunch& a, Buffers& buffers, int turn) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const unsigned bytes = static_cast<unsigned>(sizeof(buffers.block[0]) / kMaxCluster * a.chunks);
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&buffers.arrived[turn & 1])),
      "r"(bytes)
      : "memory");
#endif
}

template <typename Buffers>
__device__ __forceinline__ void wait_for_cluster(Buffers& buffers, int turn) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const unsigned barrier = shared_address(&buffers.arrived[turn & 1]), phase = turn >> 1 & 1;
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
#endif
}

// What comes in at this block, from what came in at the sequence's end and the totals of the blocks in between.
template <bool kFromRight, int kVector, typename acc>
__device__ __forceinline__ void scan_cluster(acc (&incoming)[kVector], const Pair<acc> (*block)[kLanes * kVector],
    const ScanLaunch& a, bool reversed, const Place<kVector>& place) {
  const bool downwards = kFromRight != reversed;
  const int before = downwards ? a.chunks - 1 - place.chunk : place.chunk;
  for (int c = 0; c < before; ++c) {
    const Pair<acc>* from = block[downwards ? a.chunks - 1 - c : c] + place.lane * kVector;
#pragma unroll
    for (int v = 0; v < kVector; ++v) incoming[v] = from[v].decay * incoming[v] + from[v].state;
  }
}

}  // namespace ssm
