// The selective scan's forward kernel. See docs/ops/performance-log.md for how it came to be as it is.
#pragma once

#include "selective_scan_configure.cuh"
#include "selective_scan_exchange.cuh"

namespace ssm {

template <typename acc, int kVector>
struct ForwardShared {
  ExchangeBuffers<acc, kVector, 1> exchange;
  Weights<acc> weights[3][kMaxPositions];  // of this exchange, the next, and one that slow threads may still read
  // Followed by acc u[positions][kLanes * kVector], y[the same], int tokens[orders][positions].

  static size_t bytes(const ScanLaunch& a) {
    const size_t positions = static_cast<size_t>(a.subchunks) * kTokens;
    const size_t orders = a.one_order ? 1 : a.count;
    return sizeof(ForwardShared) + positions * (2 * kLanes * kVector * sizeof(acc) + orders * sizeof(int));
  }
};

// One thread's positions of one direction and state. Arrays go by position, `tokens` and `weights` start at the first.
template <bool kOneOrder, typename acc, int kVector>
struct ForwardSteps {
  using Wide = Pack<acc, kVector>;
  const acc (&dt)[kTokens][kVector];
  const acc (&rate)[kVector];
  const Weights<acc>* weights;
  const int* tokens;
  const Wide* u;
  Wide* y;
  int base, lane;

  __device__ __forceinline__ int row(int position) const {
    return (kOneOrder ? base + position : max(tokens[position], 0)) * kLanes + lane;
  }

  // h ← exp(Δ·A)·h + Δ·B·u at one position.
  __device__ __forceinline__ void advance(acc (&h)[kVector], int position, const Wide& x, acc B) const {
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const acc step = dt[position][v];
      h[v] = exponential_scaled(step * rate[v]) * h[v] + step * x.value[v] * B;
    }
  }

  template <bool kReversed>
  __device__ __forceinline__ void summarise(acc (&h)[kVector]) const {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const int position = walked<kReversed>(i);
      advance(h, position, u[row(position)], weights[position].B);
    }
  }

  template <bool kReversed>
  __device__ __forceinline__ void apply(acc (&h)[kVector], const acc (&skip)[kVector], bool first) const {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const int position = walked<kReversed>(i);
      if (!kOneOrder && tokens[position] < 0) continue;
      const Wide x = u[row(position)];
      const Weights<acc> w = weights[position];
      advance(h, position, x, w.B);
      Wide sum = {};
      if (!first) sum = y[row(position)];
#pragma unroll
      for (int v = 0; v < kVector; ++v) sum.value[v] += skip[v] * x.value[v] + w.C * h[v];
      y[row(position)] = sum;
    }
  }
};

// Turns the thread's summary into the state as it comes in at its first step; false where the launch summarises.
template <int kVector, typename acc>
__device__ __forceinline__ bool incoming_state(const ScanLaunch& a, const Place<kVector>& place,
    ExchangeBuffers<acc, kVector, 1>& buffers, int turn, int k, int n, bool reversed, Pair<acc> (&pair)[kVector],
    acc (&h)[kVector]) {
  auto& warp = buffers.warp[turn & 1][0];
  auto& block = buffers.block[turn & 1][0];
  const bool in_cluster = a.phase == Phase::kWhole && a.chunks > 1;
  Pair<acc> total[kVector];
  scan_warp<false>(pair, warp, place);
  if (in_cluster && threadIdx.x == 0) expect_from_cluster(a, buffers, turn);
  __syncthreads();
  const bool has_total = scan_block<false>(pair, total, warp, place);
  acc carried[kVector] = {};
  if (a.phase != Phase::kWhole) {
    const int64_t at = place.in_workspace(a, k, n);
    if (a.phase == Phase::kSummarise) {
      if (has_total && place.inside && threadIdx.x % 32 < kLanes) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          static_cast<acc*>(a.chunk_decay)[at + v] = total[v].decay;
          static_cast<acc*>(a.chunk_state)[at + v] = total[v].state;
        }
      }
      return false;
    }
#pragma unroll
    for (int v = 0; v < kVector; ++v) carried[v] = static_cast<const acc*>(a.state_before)[at + v];
  } else if (in_cluster) {
    if (has_total) send_to_cluster(a, place, block, &buffers.arrived[turn & 1], total);
    wait_for_cluster(buffers, turn);
    scan_cluster<false>(carried, block, a, reversed, place);
  }
#pragma unroll
  for (int v = 0; v < kVector; ++v) h[v] = pair[v].decay * carried[v] + pair[v].state;
  return true;
}

template <bool kOneOrder, typename scalar_t, int kVector>
__global__ void __launch_bounds__(kMaxThreads, kVector == 4 ? 2 : 4)
    forward_kernel(const __grid_constant__ ScanLaunch a) {
  using acc = acc_t<scalar_t>;
  using Wide = Pack<acc, kVector>;
  // Whether registers allow to fetch the next direction's Δ while this one is worked on.
  constexpr bool kPrefetch = sizeof(scalar_t) * kVector <= 8;
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<ForwardShared<acc, kVector>*>(memory);
  const Place<kVector> place(a);
  if (place.batch >= a.p.batch) return;  // all blocks of a cluster, or none
  acc* u_tile = reinterpret_cast<acc*>(memory + sizeof(shared));
  acc* y_tile = u_tile + place.positions * kLanes * kVector;
  int* all_tokens = reinterpret_cast<int*>(y_tile + place.positions * kLanes * kVector);
  const int states = static_cast<int>(a.p.states);

  const int k0 = place.direction(a, 0);
  const bool full = __syncthreads_and(stage_tokens(a, place, all_tokens, kOneOrder ? 1 : a.count));
  Weights<acc> next = load_weights<scalar_t>(a, place, all_tokens, k0, 0);
  Pack<scalar_t, kVector> raw[kTokens];
  load_delta(raw, a, place, all_tokens, k0);
  load_tile<kOneOrder, scalar_t>(a, place, u_tile, thread_row<scalar_t>(a.p.u, a.p.u_stride, place, place.group),
      a.p.u_stride.token, all_tokens, full);
  store_weights(shared.weights[0], next, place);
  start_exchanges(a, shared.exchange);

  int turn = 0, buffer = 0;
  for (int j = 0; j < a.count; ++j) {
    const int k = place.direction(a, j);
    const bool reversed = is_reversed(a, k), last_direction = j + 1 == a.count;
    const int base = place.base(reversed);
    const int* tokens = all_tokens + (kOneOrder ? 0 : j * place.positions);
    const int* next_tokens = kOneOrder ? tokens : tokens + place.positions;
    acc dt[kTokens][kVector], total[kVector];
    if (!kPrefetch && j > 0) load_delta(raw, a, place, tokens, k);
    time_steps(dt, total, raw, a, place, tokens + base, k, full);
    if (kPrefetch && !last_direction) load_delta(raw, a, place, next_tokens, k + 1);

    for (int n = 0; n < states; ++n, ++turn) {
      const bool last_state = n + 1 == states, last = last_state && last_direction;
      if (!last) {
        const int next_k = last_state ? k + 1 : k, next_n = last_state ? 0 : n + 1;
        next = load_weights<scalar_t>(a, place, last_state ? next_tokens : tokens, next_k, next_n);
      }
      acc rate[kVector], skip[kVector] = {}, h[kVector] = {};
      Pair<acc> pair[kVector];
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const int64_t row = static_cast<int64_t>(k) * a.p.channels + place.channel + v;
        rate[v] = static_cast<const acc*>(a.p.A)[row * states + n] * exponent_scale(acc(0));
        if (n == 0 && a.p.D != nullptr) skip[v] = static_cast<const acc*>(a.p.D)[row];
      }
      const ForwardSteps<kOneOrder, acc, kVector> steps{dt, rate, shared.weights[buffer] + base, tokens + base,
          reinterpret_cast<const Wide*>(u_tile), reinterpret_cast<Wide*>(y_tile), base, place.lane};
      if (reversed) {
        steps.template summarise<true>(h);
      } else {
        steps.template summarise<false>(h);
      }
#pragma unroll
      for (int v = 0; v < kVector; ++v) pair[v] = {exponential_scaled(rate[v] * total[v]), h[v]};
      buffer = buffer == 2 ? 0 : buffer + 1;
      if (!last) store_weights(shared.weights[buffer], next, place);
      if (!incoming_state(a, place, shared.exchange, turn, k, n, reversed, pair, h)) continue;

      if (reversed) {
        steps.template apply<true>(h, skip, j == 0 && n == 0);
      } else {
        steps.template apply<false>(h, skip, j == 0 && n == 0);
      }
      // The last thread of the walk has the last state.
      if (place.sub == a.subchunks - 1 && place.chunk == (reversed ? 0 : a.chunks - 1) && place.inside) {
        acc* last_row = static_cast<acc*>(a.p.last_state);
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          last_row[(place.sequence(a, k) * a.p.channels + place.channel + v) * states + n] = h[v];
        }
      }
    }
  }
  if (a.phase == Phase::kSummarise) return;
  __syncthreads();
  write_result<kOneOrder, scalar_t>(a, place, y_tile, all_tokens, a.p.y);
}

template <typename scalar_t, int kVector>
void launch_forward_as(const ScanLaunch& a) {
  const size_t bytes = ForwardShared<acc_t<scalar_t>, kVector>::bytes(a);
  if (a.one_order) {
    launch_blocks(forward_kernel<true, scalar_t, kVector>, a, bytes);
  } else {
    launch_blocks(forward_kernel<false, scalar_t, kVector>, a, bytes);
  }
}

template <typename scalar_t>
void launch_forward(const ScanLaunch& a) {
  if constexpr (sizeof(scalar_t) <= 4) {
    if (a.vector == 4) return launch_forward_as<scalar_t, 4>(a);
    if (a.vector == 2) return launch_forward_as<scalar_t, 2>(a);
  }
  launch_forward_as<scalar_t, 1>(a);
}

}  // namespace ssm
