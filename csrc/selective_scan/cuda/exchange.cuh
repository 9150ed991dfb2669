// A prefix scan over the stretches of a sequence. Every thread leaves in shared memory the pair (decay, state) of its
// positions. One warp of the block scans the pairs, exchanges the block's with the other blocks of the cluster, and
// leaves in place of each pair the state that comes in at the thread, its carry.
#pragma once

#include "common/cuda/cluster.cuh"
#include "common/cuda/reduce.cuh"
#include "selective_scan/cuda/block.cuh"

namespace ssm {

// The pair that applies `first` and then `second`.
template <typename acc>
__device__ __forceinline__ Pair<acc> compose(const Pair<acc>& first, const Pair<acc>& second) {
  return {first.decay * second.decay, second.decay * first.state + second.state};
}

// Sets all rows to pairs that change nothing, for those that no thread writes.
template <typename scalar_t, int kSides>
__device__ __forceinline__ void clear_rows(Exchange<scalar_t, kSides>& exchange) {
  using acc = acc_t<scalar_t>;
  Pair<acc>* all = &exchange.rows[0][0][0];
  for (int i = threadIdx.x; i < kSides * kMaxRows * kColumns<scalar_t>; i += blockDim.x) all[i] = {acc(1), acc(0)};
}

// Rows of one segment, rounded up to those that are read together.
template <typename scalar_t>
__device__ int padded_rows(const ScanLaunch& a) {
  return (a.rows / kSegments<scalar_t> + kTogether - 1) / kTogether * kTogether;
}
// Where a walk's row number `rank` is kept.
template <typename scalar_t>
__device__ int slot_of(const ScanLaunch& a, int rank) {
  const int each = a.rows / kSegments<scalar_t>;
  return rank / each * padded_rows<scalar_t>(a) + rank % each;
}

// Leaves what this thread's positions do to the state.
template <typename scalar_t, int kSides>
__device__ __forceinline__ void put_pairs(Exchange<scalar_t, kSides>& exchange, int side, int slot, int lane,
    const Wide<scalar_t>& decay, const Wide<scalar_t>& state) {
  Pack<Pair<acc_t<scalar_t>>, kVector<scalar_t>> pairs;
#pragma unroll
  for (int v = 0; v < kVector<scalar_t>; ++v) pairs.value[v] = {decay.value[v], state.value[v]};
  reinterpret_cast<decltype(pairs)*>(exchange.rows[side][slot])[lane] = pairs;
}
// The state that comes in at this thread, once the rows have been scanned.
template <typename scalar_t, int kSides>
__device__ __forceinline__ Wide<scalar_t> get_carry(
    const Exchange<scalar_t, kSides>& exchange, int side, int slot, int lane) {
  using Pairs = Pack<Pair<acc_t<scalar_t>>, kVector<scalar_t>>;
  const auto pairs = reinterpret_cast<const Pairs*>(exchange.rows[side][slot])[lane];
  Wide<scalar_t> carry;
#pragma unroll
  for (int v = 0; v < kVector<scalar_t>; ++v) carry.value[v] = pairs.value[v].state;
  return carry;
}

// The slots of a thread's row in a walk from the left and in one from the right.
template <typename scalar_t>
struct Slots {
  int from_left, from_right;
  __device__ Slots(const ScanLaunch& a, const Place& place)
      : from_left(slot_of<scalar_t>(a, place.row)),
        from_right(slot_of<scalar_t>(a, a.rows - 1 - place.row)) {}
  __device__ __forceinline__ int of(bool reversed) const { return reversed ? from_right : from_left; }
};

// To be called before the first exchange; also a barrier of the block. Before sm_90 the host launches no clusters.
template <typename scalar_t, int kSides>
__device__ __forceinline__ void start_exchanges(const ScanLaunch& a, Exchange<scalar_t, kSides>& exchange) {
  __syncthreads();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (a.phase == Phase::kWhole && a.chunks > 1) {
    if (threadIdx.x == 0) init_barriers(&exchange.arrived[0][0], sizeof(exchange.arrived) / sizeof(uint64_t));
    __syncwarp();
    meet_cluster();
  }
#endif
}

// Called by one warp of each block of a cluster, for one side. Sends the block's pair `total` to all blocks, as number
// `rank` of the walk, and waits for theirs. Every lane has the pair of its column.
template <typename scalar_t, int kSides>
__device__ __forceinline__ void exchange_blocks(const ScanLaunch& a, Exchange<scalar_t, kSides>& exchange, int turn,
    int side, int rank, const Pair<acc_t<scalar_t>>& total) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const int lane = threadIdx.x % 32, column = lane % kColumns<scalar_t>, segment = lane / kColumns<scalar_t>;
  const unsigned own_barrier = shared_address(&exchange.arrived[turn & 1][side]);
  const unsigned phase = turn >> 1 & 1;
  if (lane == 0) expect_bytes(own_barrier, static_cast<unsigned>(kColumns<scalar_t> * sizeof(total)) * a.chunks);
  const unsigned slot = shared_address(&exchange.block[turn & 1][side][rank][column]);
  for (int r = segment; r < a.chunks; r += kSegments<scalar_t>) {
    send(in_block(slot, r), in_block(own_barrier, r), total.decay, total.state);
  }
  wait_for_bytes(own_barrier, phase);
#endif
}

// Called by one warp for each side, between two barriers of the block. Turns the rows' pairs into their carries. Side 1
// is the gradient of the state if kGradient, and direction k + 1 if not. `given` is the gradient of the last state, or
// null. In the phase kSummarise, the block's total goes to the workspace instead.
template <bool kGradient, typename scalar_t, int kSides>
__device__ __forceinline__ void scan_rows(const ScanLaunch& a, const Place& place, Exchange<scalar_t, kSides>& exchange,
    int turn, int side, int first_direction, int first_channel, const void* given) {
  using acc = acc_t<scalar_t>;
  const int lane = threadIdx.x % 32, column = lane % kColumns<scalar_t>, segment = lane / kColumns<scalar_t>;
  const int count = a.rows / kSegments<scalar_t>, channel = first_channel + column;
  const int k = kGradient ? first_direction : first_direction + side;
  const bool from_right = is_reversed(a, k) != (kGradient && side == 1), inside = channel < a.p.channels;
  Pair<acc>* rows = &exchange.rows[side][segment * padded_rows<scalar_t>(a)][column];

  Pair<acc> own{acc(1), acc(0)}, before = own, total = own;
  for (int first = 0; first < count; first += kTogether) {
#pragma unroll
    for (int i = 0; i < kTogether; ++i) own = compose(own, rows[(first + i) * kColumns<scalar_t>]);
  }
#pragma unroll
  for (int s = 0; s < kSegments<scalar_t>; ++s) {
    const int from = s * kColumns<scalar_t> + column;
    const Pair<acc> part{__shfl_sync(kFullWarp, own.decay, from), __shfl_sync(kFullWarp, own.state, from)};
    if (s < segment) before = compose(before, part);
    total = compose(total, part);
  }

  acc carried = 0;
  const int rank = from_right ? a.chunks - 1 - place.chunk : place.chunk;
  if (a.phase == Phase::kWhole) {
    if (kGradient && side == 1 && given != nullptr && inside) {
      carried = static_cast<const acc*>(given)[place.sequence(a, k) * a.p.channels + channel];
    }
    if (a.chunks > 1) {
      exchange_blocks(a, exchange, turn, side, rank, total);
      const Pair<acc>* others = &exchange.block[turn & 1][side][0][column];
#pragma unroll 4
      for (int c = 0; c < a.chunks; ++c) {
        const Pair<acc> other = others[c * kColumns<scalar_t>];
        if (c < rank) carried = other.decay * carried + other.state;
      }
    }
  } else if (inside) {
    const int64_t at = place.in_workspace(a, k, channel);
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
  if (!kGradient && segment == kSegments<scalar_t> - 1 && rank == a.chunks - 1 && inside) {
    static_cast<acc*>(a.p.last_state)[place.sequence(a, k) * a.p.channels + channel] = h;
  }
}

}  // namespace ssm
