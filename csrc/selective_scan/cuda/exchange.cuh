// How the summaries of the stretches of a sequence become what comes in at each. A summary is the pair (decay, state)
// of h ← decay · h + state. Every thread leaves the one of its positions in shared memory; one warp of the block walks
// them, exchanges the block's with the others of the cluster, and leaves what comes in at each thread in their place.
#pragma once

#include "selective_scan/cuda/block.cuh"

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

// Two sides may share an exchange: two directions, or the state, which follows the walk, and its gradient, which goes
// against it. Rows and blocks are kept in the order of each side's walk. The blocks' pairs have two sets: another block
// may be one exchange ahead.
template <typename scalar_t, int kSides>
struct Exchange {
  using acc = acc_t<scalar_t>;
  uint64_t arrived[2][kSides];  // mbarriers: the blocks' summaries are here
  Pair<acc> rows[kSides][kMaxSubchunks][kColumns<scalar_t>];
  Pair<acc> block[2][kSides][kMaxCluster][kColumns<scalar_t>];

  // Lanes that walk different rows of one column.
  static constexpr int kSegments = 32 / kColumns<scalar_t>;

  // Rows that do not exist change nothing.
  __device__ void clear() {
    Pair<acc>* all = &rows[0][0][0];
    for (int i = threadIdx.x; i < kSides * kMaxSubchunks * kColumns<scalar_t>; i += blockDim.x)
      all[i] = {acc(1), acc(0)};
  }
  // Of one segment, rounded up to those that are in flight at once.
  __device__ static int padded_rows(const ScanLaunch& a) {
    return (a.subchunks / kSegments + kTogether - 1) / kTogether * kTogether;
  }
  // Where the row that a walk comes to as its `rank`-th is kept.
  __device__ static int slot(const ScanLaunch& a, int rank) {
    const int each = a.subchunks / kSegments;
    return rank / each * padded_rows(a) + rank % each;
  }

  __device__ __forceinline__ void put(
      int side, int slot, int lane, const Wide<scalar_t>& decay, const Wide<scalar_t>& state) {
    Pack<Pair<acc>, kVector<scalar_t>> pairs;
#pragma unroll
    for (int v = 0; v < kVector<scalar_t>; ++v) pairs.value[v] = {decay.value[v], state.value[v]};
    reinterpret_cast<decltype(pairs)*>(rows[side][slot])[lane] = pairs;
  }
  // What comes in, once the rows have been walked.
  __device__ __forceinline__ Wide<scalar_t> get(int side, int slot, int lane) const {
    const auto pairs = reinterpret_cast<const Pack<Pair<acc>, kVector<scalar_t>>*>(rows[side][slot])[lane];
    Wide<scalar_t> incoming;
#pragma unroll
    for (int v = 0; v < kVector<scalar_t>; ++v) incoming.value[v] = pairs.value[v].state;
    return incoming;
  }
};

// The slots of a thread's row in a walk from the left and in one from the right.
template <typename Buffers>
struct Slots {
  int from_left, from_right;
  __device__ Slots(const ScanLaunch& a, const Place& place)
      : from_left(Buffers::slot(a, place.sub)),
        from_right(Buffers::slot(a, a.subchunks - 1 - place.sub)) {}
  __device__ __forceinline__ int of(bool reversed) const { return reversed ? from_right : from_left; }
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

// Before the first exchange; a barrier of the block too. Blocks before sm_90 are never in a cluster: the host sees to
// it.
template <typename Buffers>
__device__ __forceinline__ void start_exchanges(const ScanLaunch& a, Buffers& buffers) {
  __syncthreads();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (a.phase == Phase::kWhole && a.chunks > 1) {
    if (threadIdx.x == 0) {
      uint64_t* barriers = &buffers.arrived[0][0];
      for (unsigned i = 0; i < sizeof(buffers.arrived) / sizeof(uint64_t); ++i) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barriers + i)));
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    // Relaxed: the fence has ordered what other blocks need, and a full release would wait for all of memory.
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n barrier.cluster.wait.acquire.aligned;" ::: "memory");
  }
#endif
}

// Called by one warp of each block of a cluster: sends the block's `total` (every lane has its column's) of one side to
// all, as the `rank`-th of the walk, and waits for theirs.
template <typename scalar_t, int kSides>
__device__ __forceinline__ void exchange_blocks(const ScanLaunch& a, Exchange<scalar_t, kSides>& buffers, int turn,
    int side, int rank, const Pair<acc_t<scalar_t>>& total) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const int lane = threadIdx.x % 32, column = lane % kColumns<scalar_t>, segment = lane / kColumns<scalar_t>;
  const unsigned own_barrier = shared_address(&buffers.arrived[turn & 1][side]);
  const unsigned phase = turn >> 1 & 1;
  if (lane == 0) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(own_barrier),
        "r"(static_cast<unsigned>(kColumns<scalar_t> * sizeof(total)) * a.chunks)
        : "memory");
  }
  const unsigned slot = shared_address(&buffers.block[turn & 1][side][rank][column]);
  for (int r = segment; r < a.chunks; r += buffers.kSegments) {
    send(in_block(slot, r), in_block(own_barrier, r), total);
  }
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

// Called by one warp a side, between two barriers of the block: turns what each row of the block adds to the state into
// what comes in at it. Side 1 is the gradient of the state (`kGradient`; `given` are those of the last state, or null),
// or direction k + 1. In a launch that only summarises, the block's total goes to the workspace.
template <bool kGradient, typename scalar_t, int kSides>
__device__ __forceinline__ void scan_rows(const ScanLaunch& a, const Place& place, Exchange<scalar_t, kSides>& buffers,
    int turn, int side, int first_direction, int n, int first_channel, const void* given) {
  using acc = acc_t<scalar_t>;
  constexpr int kSegments = Exchange<scalar_t, kSides>::kSegments;
  const int lane = threadIdx.x % 32, column = lane % kColumns<scalar_t>, segment = lane / kColumns<scalar_t>;
  const int count = a.subchunks / kSegments, channel = first_channel + column;
  const int k = kGradient ? first_direction : first_direction + side;
  const bool from_right = is_reversed(a, k) != (kGradient && side == 1), inside = channel < a.p.channels;
  Pair<acc>* rows = &buffers.rows[side][segment * buffers.padded_rows(a)][column];

  Pair<acc> own{acc(1), acc(0)}, before = own, total = own;
  for (int first = 0; first < count; first += kTogether) {
#pragma unroll
    for (int i = 0; i < kTogether; ++i) own = compose(own, rows[(first + i) * kColumns<scalar_t>]);
  }
#pragma unroll
  for (int s = 0; s < kSegments; ++s) {
    const int from = s * kColumns<scalar_t> + column;
    const Pair<acc> part{__shfl_sync(kFullWarp, own.decay, from), __shfl_sync(kFullWarp, own.state, from)};
    if (s < segment) before = compose(before, part);
    total = compose(total, part);
  }

  acc carried = 0;
  const int rank = from_right ? a.chunks - 1 - place.chunk : place.chunk;
  if (a.phase == Phase::kWhole) {
    if (kGradient && side == 1 && given != nullptr && inside) {
      carried = static_cast<const acc*>(given)[(place.sequence(a, k) * a.p.channels + channel) * a.p.states + n];
    }
    if (a.chunks > 1) {
      exchange_blocks(a, buffers, turn, side, rank, total);
      const Pair<acc>* others = &buffers.block[turn & 1][side][0][column];
#pragma unroll 4
      for (int c = 0; c < a.chunks; ++c) {
        const Pair<acc> other = others[c * kColumns<scalar_t>];
        if (c < rank) carried = other.decay * carried + other.state;
      }
    }
  } else if (inside) {
    const int64_t at = place.in_workspace(a, k, n, channel);
    const bool is_gradient = kGradient && side == 1;
    if (a.phase == Phase::kApply) {
      carried = static_cast<const acc*>(is_gradient ? a.gradient_after : a.state_before)[at];
    } else if (segment == 0) {
      if (!is_gradient) static_cast<acc*>(a.chunk_decay)[at] = total.decay;
      static_cast<acc*>(is_gradient ? a.chunk_gradient : a.chunk_state)[at] = total.state;
    }
  }
  if (a.phase == Phase::kSummarise) return;

  acc h = before.decay * carried + before.state;
  for (int first = 0; first < count; first += kTogether) {
    Pair<acc> next[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) next[i] = rows[(first + i) * kColumns<scalar_t>];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      if (first + i < count) rows[(first + i) * kColumns<scalar_t>].state = h;
      h = next[i].decay * h + next[i].state;
    }
  }
  if (!kGradient && segment == kSegments - 1 && rank == a.chunks - 1 && inside) {
    static_cast<acc*>(a.p.last_state)[(place.sequence(a, k) * a.p.channels + channel) * a.p.states + n] = h;
  }
}

}  // namespace ssm
