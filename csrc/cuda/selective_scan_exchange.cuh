// How the summaries of the stretches of a sequence become what comes in at each. A summary is the pair (decay, state)
// of h ← decay · h + state. Every thread leaves the one of its positions in shared memory; one warp of the block walks
// them, exchanges the block's with the others of the cluster, and leaves what comes in at each thread in their place.
#pragma once

#include "selective_scan_block.cuh"

namespace ssm {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kTogether = 7;  // rows whose summaries are in flight at once

template <typename acc>
struct alignas(2 * sizeof(acc)) Pair {
  acc decay, state;
};

// The pair that applies `first` and then `second`.
template <typename acc>
__device__ __forceinline__ Pair<acc> compose(const Pair<acc>& first, const Pair<acc>& second) {
  return {first.decay * second.decay, second.decay * first.state + second.state};
}

// Side 0 is the state, which follows the walk; side 1 the state's gradient, which goes against it and decays alike.
// The blocks' pairs have two sets: another block may be one exchange ahead.
template <typename scalar_t, int kSides>
struct Exchange {
  using acc = acc_t<scalar_t>;
  uint64_t arrived[2];  // mbarriers: the blocks' summaries are here
  acc decay[kMaxSubchunks][kColumns<scalar_t>];
  acc state[kSides][kMaxSubchunks][kColumns<scalar_t>];
  Pair<acc> block[2][kSides][kMaxCluster][kColumns<scalar_t>];
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

// Before the first exchange; a barrier of the block too. Blocks before sm_90 are never in a cluster: the host sees to it.
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

// Called by one warp of each block of a cluster: sends the block's `total` (every lane has its column's and side's) to
// all, and waits for theirs.
template <typename scalar_t, int kSides>
__device__ __forceinline__ void exchange_blocks(const ScanLaunch& a, const Place& place,
    Exchange<scalar_t, kSides>& buffers, int turn, const Pair<acc_t<scalar_t>>& total) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr int kOneBlock = kColumns<scalar_t> * kSides, kSegments = 32 / kOneBlock;
  const int lane = threadIdx.x % 32, column = lane % kColumns<scalar_t>, side = lane / kColumns<scalar_t> % kSides;
  const unsigned own_barrier = shared_address(&buffers.arrived[turn & 1]);
  const unsigned phase = turn >> 1 & 1;
  if (lane == 0) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(own_barrier),
        "r"(static_cast<unsigned>(kOneBlock * sizeof(total)) * a.chunks)
        : "memory");
  }
  const unsigned slot = shared_address(&buffers.block[turn & 1][side][place.chunk][column]);
  for (int r = lane / kOneBlock; r < a.chunks; r += kSegments) send(in_block(slot, r), in_block(own_barrier, r), total);
  unsigned done = 0;
  while (!done) {
    asm volatile(
        "{\n .reg .pred p;\n"
        " mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        " selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(own_barrier), "r"(phase)
        : "memory");
  }
#endif
}

// Called by one warp between two barriers of the block: turns buffers.state from what each row of the block adds into
// what comes in at it. In the first walk of a launch that only summarises, the block's total goes to the workspace.
// `given` are the gradients of the last state, or null.
template <typename scalar_t, int kSides>
__device__ __forceinline__ void scan_rows(const ScanLaunch& a, const Place& place, Exchange<scalar_t, kSides>& buffers,
    int turn, int k, int n, int first_channel, const void* given) {
  using acc = acc_t<scalar_t>;
  constexpr int kOneBlock = kColumns<scalar_t> * kSides, kSegments = 32 / kOneBlock;
  const int lane = threadIdx.x % 32, column = lane % kColumns<scalar_t>, side = lane / kColumns<scalar_t> % kSides;
  const int segment = lane / kOneBlock, rows = a.subchunks / kSegments, channel = first_channel + column;
  const bool from_right = is_reversed(a, k) != (side == 1), inside = channel < a.p.channels;
  const int first_row = from_right ? a.subchunks - 1 - segment * rows : segment * rows;
  const int step = from_right ? -kColumns<scalar_t> : kColumns<scalar_t>;
  const acc* decays = &buffers.decay[first_row][column];
  acc* states = &buffers.state[side][first_row][column];

  Pair<acc> own{acc(1), acc(0)}, before = own, total = own;
#pragma unroll kTogether
  for (int r = 0; r < rows; ++r) own = compose(own, Pair<acc>{decays[r * step], states[r * step]});
#pragma unroll
  for (int s = 0; s < kSegments; ++s) {
    const int from = s * kOneBlock + lane % kOneBlock;
    const Pair<acc> part{__shfl_sync(kFullWarp, own.decay, from), __shfl_sync(kFullWarp, own.state, from)};
    if (s < segment) before = compose(before, part);
    total = compose(total, part);
  }

  const int64_t row = (place.sequence(a, k) * a.p.channels + channel) * a.p.states + n;
  acc carried = 0;
  if (a.phase == Phase::kWhole) {
    if (side == 1 && given != nullptr && inside) carried = static_cast<const acc*>(given)[row];
    if (a.chunks > 1) {
      exchange_blocks(a, place, buffers, turn, total);
      const int passed = from_right ? a.chunks - 1 - place.chunk : place.chunk;
#pragma unroll 4
      for (int c = 0; c < a.chunks; ++c) {
        const Pair<acc> other = buffers.block[turn & 1][side][from_right ? a.chunks - 1 - c : c][column];
        if (c < passed) carried = other.decay * carried + other.state;
      }
    }
  } else if (inside) {
    const int64_t at = place.in_workspace(a, k, n, channel);
    if (a.phase == Phase::kApply) {
      carried = static_cast<const acc*>(side == 0 ? a.state_before : a.gradient_after)[at];
    } else if (segment == 0) {
      if (side == 0) static_cast<acc*>(a.chunk_decay)[at] = total.decay;
      static_cast<acc*>(side == 0 ? a.chunk_state : a.chunk_gradient)[at] = total.state;
    }
  }
  if (a.phase == Phase::kSummarise) return;

  acc h = before.decay * carried + before.state;
  for (int first = 0; first < rows; first += kTogether) {
    Pair<acc> next[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int r = min(first + i, rows - 1);
      next[i] = {decays[r * step], states[r * step]};
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (first + i >= rows) break;
      states[(first + i) * step] = h;
      h = next[i].decay * h + next[i].state;
    }
  }
  if (kSides == 1 && segment == kSegments - 1 && place.chunk == (from_right ? 0 : a.chunks - 1) && inside) {
    static_cast<acc*>(a.p.last_state)[row] = h;
  }
}

}  // namespace ssm
