// The selective scan's forward kernel. See docs/ops/performance-log.md for how it came to be as it is.
#pragma once

#include "selective_scan_configure.cuh"
#include "selective_scan_exchange.cuh"

namespace ssm {

template <typename acc, int kVector>
struct ForwardShared {
  ExchangeBuffers<acc, kVector, 2> exchange;
  Weights<acc> weights[3][kMaxPositions];  // of this exchange, the next, and one that slow threads may still read
  // Followed by acc u[positions][kLanes * kVector], y[the same], int tokens[orders][positions].

  static size_t bytes(const ScanLaunch& a) {
    const size_t positions = static_cast<size_t>(a.subchunks) * kTokens;
    const size_t orders = a.one_order ? 1 : a.count;
    return sizeof(ForwardShared) + positions * (2 * kLanes * kVector * sizeof(acc) + orders * sizeof(int));
  }
};

// The state as it comes in at this thread's first step; a summary only, and false, where the launch summarises.
template <int kVector, typename acc>
__device__ __forceinline__ bool incoming_state(const ScanLaunch& a, const Place<kVector>& place,
    ExchangeBuffers<acc, kVector, 2>& buffers, int parity, int64_t k, int64_t n, bool reversed, acc (&decay)[kVector],
    acc (&state)[kVector], acc (&h)[kVector]) {
  acc block_decay[kVector], block_state[kVector];
  auto warp = buffers.warp[parity];
  scan_warp<false>(decay, state, warp[0], warp[1], place);
  __syncthreads();
  scan_block<false>(decay, state, block_decay, block_state, warp[0], warp[1], place);
  const int64_t at = place.in_workspace(a, k, n);
  if (a.phase == Phase::kSummarise) {
    for (int v = 0; v < kVector; ++v) {
      if (place.sub != 0 || !place.inside) break;
      static_cast<acc*>(a.chunk_decay)[at + v] = block_decay[v];
      static_cast<acc*>(a.chunk_state)[at + v] = block_state[v];
    }
    return false;
  }
  acc carried[kVector] = {};
  if (a.phase == Phase::kApply) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      if (place.inside) carried[v] = static_cast<const acc*>(a.state_before)[at + v];
    }
  } else if (a.chunks > 1) {
    auto block = buffers.block[parity];
    if (place.sub == 0) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        write_to_cluster(&block[0][place.chunk][place.lane * kVector + v], block_decay[v], a.chunks);
        write_to_cluster(&block[1][place.chunk][place.lane * kVector + v], block_state[v], a.chunks);
      }
    }
    sync_cluster();
    scan_cluster<false>(carried, block[0], block[1], a.chunks, reversed, place);
  }
#pragma unroll
  for (int v = 0; v < kVector; ++v) h[v] = decay[v] * carried[v] + state[v];
  return true;
}

template <typename scalar_t, int kVector>
__global__ void __launch_bounds__(kMaxThreads, 2) forward_kernel(const __grid_constant__ ScanLaunch a) {
  using acc = acc_t<scalar_t>;
  using Wide = Pack<acc, kVector>;
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<ForwardShared<acc, kVector>*>(memory);
  const Place<kVector> place(a);
  acc* u_tile = reinterpret_cast<acc*>(memory + sizeof(shared));
  acc* y_tile = u_tile + place.positions * kLanes * kVector;
  int* all_tokens = reinterpret_cast<int*>(y_tile + place.positions * kLanes * kVector);
  const int states = static_cast<int>(a.p.states);

  stage_tokens(a, place, all_tokens);
  __syncthreads();
  const int64_t k0 = place.direction(a, 0);
  Weights<acc> next = load_weights<scalar_t>(a, place, all_tokens, k0, 0);
  Pack<scalar_t, kVector> raw[kTokens];
  load_delta(raw, a, place, all_tokens, k0, Walk(is_reversed(a, k0), place.sub, place.positions));
  load_tile<scalar_t>(a, place, u_tile, thread_row<scalar_t>(a.p.u, a.p.u_stride, place, place.group),
      a.p.u_stride.token, all_tokens);
  if (static_cast<int>(threadIdx.x) < place.positions) shared.weights[0][threadIdx.x] = next;
  sync_start(a);

  int parity = 0, turn = 0;
  for (int j = 0; j < a.count; ++j) {
    const int64_t k = place.direction(a, j);
    const bool reversed = is_reversed(a, k), last_direction = j + 1 == a.count;
    const int* tokens = all_tokens + (a.one_order ? 0 : j * place.positions);
    const int* next_tokens = all_tokens + (a.one_order ? 0 : (j + 1) * place.positions);
    const Walk walk(reversed, place.sub, place.positions);
    acc dt[kTokens][kVector], total[kVector];
    time_steps(dt, total, raw, a, place, tokens, k, walk);
    if (!last_direction) {
      load_delta(raw, a, place, next_tokens, k + 1, Walk(is_reversed(a, k + 1), place.sub, place.positions));
    }
    // Row of the tiles of step i.
    const auto row = [&](int i) { return (a.one_order ? walk[i] : max(tokens[walk[i]], 0)) * kLanes + place.lane; };

    for (int n = 0; n < states; ++n, parity ^= 1, turn = turn == 2 ? 0 : turn + 1) {
      const bool last_state = n + 1 == states;
      if (!last_state) {
        next = load_weights<scalar_t>(a, place, tokens, k, n + 1);
      } else if (!last_direction) {
        next = load_weights<scalar_t>(a, place, next_tokens, k + 1, 0);
      }
      const Weights<acc>* weights = shared.weights[turn];
      acc rate[kVector], decay[kVector], state[kVector] = {}, h[kVector];
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const acc* A = static_cast<const acc*>(a.p.A) + (k * a.p.channels + place.channel + v) * states;
        rate[v] = place.inside ? A[n] * exponent_scale(acc(0)) : acc(0);
        decay[v] = exponential_scaled(rate[v] * total[v]);
      }
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        const Wide u = reinterpret_cast<const Wide*>(u_tile)[row(i)];
        const acc B = weights[walk[i]].B;
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          state[v] = exponential_scaled(dt[i][v] * rate[v]) * state[v] + dt[i][v] * u.value[v] * B;
        }
      }
      if (!(last_state && last_direction) && static_cast<int>(threadIdx.x) < place.positions) {
        shared.weights[turn == 2 ? 0 : turn + 1][threadIdx.x] = next;
      }
      if (!incoming_state(a, place, shared.exchange, parity, k, n, reversed, decay, state, h)) continue;

      acc skip[kVector];
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const bool has_skip = n == 0 && a.p.D != nullptr && place.inside;
        skip[v] = has_skip ? static_cast<const acc*>(a.p.D)[k * a.p.channels + place.channel + v] : acc(0);
      }
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        if (!a.one_order && tokens[walk[i]] < 0) continue;
        const Wide u = reinterpret_cast<const Wide*>(u_tile)[row(i)];
        Wide& y = reinterpret_cast<Wide*>(y_tile)[row(i)];
        const Weights<acc> w = weights[walk[i]];
        Wide out;
        if (j == 0 && n == 0) {
          for (int v = 0; v < kVector; ++v) out.value[v] = acc(0);
        } else {
          out = y;
        }
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          h[v] = exponential_scaled(dt[i][v] * rate[v]) * h[v] + dt[i][v] * u.value[v] * w.B;
          out.value[v] += skip[v] * u.value[v] + w.C * h[v];
        }
        y = out;
      }
      // The last thread of the walk has the last state.
      const int end = reversed ? 0 : a.chunks - 1;
      if (place.chunk == end && place.sub == a.subchunks - 1 && place.inside) {
        acc* last = static_cast<acc*>(a.p.last_state);
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          last[(place.sequence(a, k) * a.p.channels + place.channel + v) * states + n] = h[v];
        }
      }
    }
  }
  if (a.phase == Phase::kSummarise) return;
  __syncthreads();
  write_result<scalar_t>(a, place, y_tile, all_tokens, a.p.y);
}

template <typename scalar_t>
void launch_forward(const ScanLaunch& a) {
  using acc = acc_t<scalar_t>;
  if constexpr (sizeof(scalar_t) <= 4) {
    if (a.vector == 2) {
      return launch_blocks(forward_kernel<scalar_t, 2>, a, ForwardShared<acc, 2>::bytes(a));
    }
  }
  launch_blocks(forward_kernel<scalar_t, 1>, a, ForwardShared<acc, 1>::bytes(a));
}

}  // namespace ssm
