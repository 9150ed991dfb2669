// The selective scan's backward kernel: the states once more from the left, their gradients from the right, in one
// exchange; then every gradient. The gradient that travels is μ(s) = a(s) · λ(s), so that it decays as the state does.
#pragma once

#include "selective_scan_configure.cuh"
#include "selective_scan_exchange.cuh"

namespace ssm {

enum ParameterGradient { kGradA, kGradD, kGradBias, kParameterGradients };

template <typename acc, int kVector>
struct BackwardShared {
  ExchangeBuffers<acc, kVector, 2> exchange;
  Weights<acc> weights[3][kMaxPositions];
  acc parameters[kParameterGradients][kMaxWarps][kLanes * kVector];  // read before, written after an exchange's barrier
  // Followed by acc u[positions][kLanes * kVector], grad_y[the same], grad_u[the same], int tokens[orders][positions].

  static size_t bytes(const ScanLaunch& a) {
    const size_t positions = static_cast<size_t>(a.subchunks) * kTokens;
    const size_t orders = a.one_order ? 1 : a.count;
    return sizeof(BackwardShared) + positions * (3 * kLanes * kVector * sizeof(acc) + orders * sizeof(int));
  }
};

// Turns the thread's summaries into h as it comes in at its first step, and μ as it comes in at its last; false where
// the launch summarises.
template <int kVector, typename acc>
__device__ __forceinline__ bool incoming_pair(const ScanLaunch& a, const Place<kVector>& place,
    ExchangeBuffers<acc, kVector, 2>& buffers, int turn, int k, int n, bool reversed, const acc* grad_last_state,
    Pair<acc> (&left)[kVector], Pair<acc> (&right)[kVector], acc (&h)[kVector], acc (&mu)[kVector]) {
  auto& warp = buffers.warp[turn & 1];
  auto& block = buffers.block[turn & 1];
  const bool in_cluster = a.phase == Phase::kWhole && a.chunks > 1;
  Pair<acc> total[kVector];
  scan_warp<false>(left, warp[0], place);
  scan_warp<true>(right, warp[1], place);
  if (in_cluster && threadIdx.x == 0) expect_from_cluster(a, buffers, turn);
  __syncthreads();
  const int64_t at = place.in_workspace(a, k, n);
  const bool writes_summary = a.phase == Phase::kSummarise && place.inside && threadIdx.x % 32 < kLanes;
  if (scan_block<false>(left, total, warp[0], place)) {
    if (in_cluster) send_to_cluster(a, place, block[0], &buffers.arrived[turn & 1], total);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      if (!writes_summary) break;
      static_cast<acc*>(a.chunk_decay)[at + v] = total[v].decay;
      static_cast<acc*>(a.chunk_state)[at + v] = total[v].state;
    }
  }
  if (scan_block<true>(right, total, warp[1], place)) {
    if (in_cluster) send_to_cluster(a, place, block[1], &buffers.arrived[turn & 1], total);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      if (writes_summary) static_cast<acc*>(a.chunk_gradient)[at + v] = total[v].state;
    }
  }
  if (a.phase == Phase::kSummarise) return false;
  acc from_left[kVector] = {}, from_right[kVector] = {};
  if (a.phase == Phase::kApply) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      from_left[v] = static_cast<const acc*>(a.state_before)[at + v];
      from_right[v] = static_cast<const acc*>(a.gradient_after)[at + v];
    }
  } else {
    if (grad_last_state != nullptr) {
      const int64_t row = place.sequence(a, k) * a.p.channels + place.channel;
#pragma unroll
      for (int v = 0; v < kVector; ++v) from_right[v] = grad_last_state[(row + v) * a.p.states + n];
    }
    if (in_cluster) {
      wait_for_cluster(buffers, turn);
      scan_cluster<false>(from_left, block[0], a, reversed, place);
      scan_cluster<true>(from_right, block[1], a, reversed, place);
    }
  }
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    h[v] = left[v].decay * from_left[v] + left[v].state;
    mu[v] = right[v].decay * from_right[v] + right[v].state;
  }
  return true;
}

// Sums over the lanes of a row: even lanes return that of `first`, odd ones that of `second`.
template <typename acc>
__device__ __forceinline__ acc sum_two_of_row(acc first, acc second) {
  const bool odd = threadIdx.x % 2 == 1;
  acc sum = (odd ? second : first) + __shfl_xor_sync(kFullWarp, odd ? first : second, 1);
#pragma unroll
  for (int offset = 2; offset < kLanes; offset *= 2) sum += __shfl_xor_sync(kFullWarp, sum, offset);
  return sum;
}

// A warp's sum of a parameter's gradient into shared memory.
template <int kVector, typename acc>
__device__ __forceinline__ void sum_over_warp(
    acc (&value)[kVector], acc (*sums)[kLanes * kVector], const Place<kVector>& place) {
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
#pragma unroll
    for (int offset = kLanes; offset < 32; offset *= 2) value[v] += __shfl_xor_sync(kFullWarp, value[v], offset);
    if (threadIdx.x % 32 < kLanes) sums[place.warp][place.lane * kVector + v] = value[v];
  }
}

template <int kVector, typename acc>
__device__ __forceinline__ void write_parameters(const ScanLaunch& a, const SelectiveScanGradients& g,
    const Place<kVector>& place, const acc (*sums)[kMaxWarps][kLanes * kVector], int k, int n) {
  const int column = threadIdx.x;
  const int64_t channel = static_cast<int64_t>(place.tile) * kLanes * kVector + column;
  if (column >= kLanes * kVector || channel >= a.p.channels) return;
  acc total[kParameterGradients] = {};
  for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) {
#pragma unroll
    for (int i = 0; i < kParameterGradients; ++i) total[i] += sums[i][w][column];
  }
  const int64_t K = a.p.groups * a.p.inner;
  const int64_t row = ((place.chunk * a.p.batch + place.batch) * K + k) * a.p.channels + channel;
  static_cast<acc*>(g.grad_A)[row * a.p.states + n] = total[kGradA];
  if (n == 0) static_cast<acc*>(g.grad_D)[row] = total[kGradD];
  if (n + 1 == a.p.states) static_cast<acc*>(g.grad_delta_bias)[row] = total[kGradBias];
}

// The gradient of delta, through softplus, and its sum over the tokens.
template <typename scalar_t, int kVector>
__device__ __forceinline__ void write_grad_delta(const ScanLaunch& a, const SelectiveScanGradients& g,
    const Place<kVector>& place, const acc_t<scalar_t> (&grad_dt)[kTokens][kVector],
    const acc_t<scalar_t> (&dt)[kTokens][kVector], acc_t<scalar_t> (&grad_bias)[kVector], const int* tokens, int k) {
  using acc = acc_t<scalar_t>;
  char* rows = reinterpret_cast<char*>(
      static_cast<scalar_t*>(g.grad_delta) + place.sequence(a, k) * a.p.length * a.p.channels + place.channel);
  const int stride = static_cast<int>(a.p.channels * sizeof(scalar_t));
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    Pack<scalar_t, kVector> narrow;
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      // Where there is no token, Δ was set to 0, and so is its slope.
      const acc slope = a.p.delta_softplus ? softplus_slope(dt[i][v]) : acc(tokens[i] >= 0);
      const acc gradient = grad_dt[i][v] * slope;
      grad_bias[v] += gradient;
      narrow.value[v] = static_cast<scalar_t>(gradient);
    }
    if (tokens[i] < 0 || !place.inside) continue;
    *reinterpret_cast<Pack<scalar_t, kVector>*>(rows + static_cast<int64_t>(tokens[i]) * stride) = narrow;
  }
}

// One thread's positions of one direction and state. Arrays go by position, `tokens` and `weights` start at the first.
template <bool kOneOrder, typename acc, int kVector>
struct BackwardSteps {
  using Wide = Pack<acc, kVector>;
  const acc (&dt)[kTokens][kVector];
  const acc (&rate)[kVector];
  const Weights<acc>* weights;
  const int* tokens;
  const Wide *u, *grad_y;
  Wide* grad_u;
  int base, lane;

  __device__ __forceinline__ int row(int position) const {
    return (kOneOrder ? base + position : max(tokens[position], 0)) * kLanes + lane;
  }

  // What these steps do to h, walking right, and to μ, walking left: Σ_i (Π_{m ≤ i} a_m) C_i g_i.
  template <bool kReversed>
  __device__ __forceinline__ void summarise(acc (&h)[kVector], acc (&mu)[kVector]) const {
    acc reach[kVector];
#pragma unroll
    for (int v = 0; v < kVector; ++v) reach[v] = acc(1);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const int position = walked<kReversed>(i);
      const Wide x = u[row(position)], gy = grad_y[row(position)];
      const Weights<acc> w = weights[position];
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const acc step = dt[position][v], factor = exponential_scaled(step * rate[v]);
        h[v] = factor * h[v] + step * x.value[v] * w.B;
        reach[v] *= factor;
        mu[v] += reach[v] * (gy.value[v] * w.C);
      }
    }
  }

  // h before each step; `h` ends as the state after the last.
  template <bool kReversed>
  __device__ __forceinline__ void states(acc (&before)[kTokens][kVector], acc (&h)[kVector]) const {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const int position = walked<kReversed>(i);
      const Wide x = u[row(position)];
      const acc B = weights[position].B;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const acc step = dt[position][v];
        before[position][v] = h[v];
        h[v] = exponential_scaled(step * rate[v]) * h[v] + step * x.value[v] * B;
      }
    }
  }

  // The walk back. `before` becomes the gradient of Δ; B's and C's gradients go to `to_weights`, rows of N: lane 0
  // has B's, lane 1 C's.
  template <bool kReversed>
  __device__ __forceinline__ void gradients(acc (&before)[kTokens][kVector], acc (&h)[kVector], acc (&mu)[kVector],
      acc (&grad_A)[kVector], acc (&grad_D)[kVector], const acc (&skip)[kVector], bool first, acc* to_weights,
      int states) const {
#pragma unroll
    for (int i = kTokens - 1; i >= 0; --i) {
      const int position = walked<kReversed>(i);
      const int token = tokens[position];
      const Wide x = u[row(position)], gy = grad_y[row(position)];
      const Weights<acc> w = weights[position];
      acc for_B = 0, for_C = 0;
      Wide out = {};
      if (!first && (kOneOrder || token >= 0)) out = grad_u[row(position)];
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const acc step = dt[position][v];
        const acc lambda = w.C * gy.value[v] + mu[v];
        const acc drive = lambda * step;
        mu[v] = exponential_scaled(step * rate[v]) * lambda;
        const acc exponent = mu[v] * before[position][v];
        for_B += drive * x.value[v];
        for_C += gy.value[v] * h[v];
        out.value[v] += drive * w.B + skip[v] * gy.value[v];
        if (kOneOrder || token >= 0) grad_D[v] += gy.value[v] * x.value[v];
        grad_A[v] += exponent * step;
        h[v] = before[position][v];
        before[position][v] = exponent * (rate[v] * (acc(1) / exponent_scale(acc(0)))) + lambda * w.B * x.value[v];
      }
      const acc sum = sum_two_of_row(for_B, for_C);
      if (token < 0) continue;
      grad_u[row(position)] = out;
      if (lane < 2) to_weights[static_cast<int64_t>(token) * states] = sum;
    }
  }
};

template <bool kOneOrder, bool kSingle, typename scalar_t, int kVector>
__global__ void __launch_bounds__(kMaxThreads, kSingle ? 3 : 2)
    backward_kernel(const __grid_constant__ ScanLaunch a, const __grid_constant__ SelectiveScanGradients g) {
  using acc = acc_t<scalar_t>;
  using Wide = Pack<acc, kVector>;
  // Whether registers allow to fetch the next direction's Δ while this one is worked on.
  constexpr bool kPrefetch = sizeof(scalar_t) * kVector <= 8;
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<BackwardShared<acc, kVector>*>(memory);
  const Place<kVector> place(a);
  if (place.batch >= a.p.batch) return;  // all blocks of a cluster, or none
  const int tile_size = place.positions * kLanes * kVector;
  acc* u_tile = reinterpret_cast<acc*>(memory + sizeof(shared));
  acc* grad_y_tile = u_tile + tile_size;
  acc* grad_u_tile = grad_y_tile + tile_size;
  int* all_tokens = reinterpret_cast<int*>(grad_u_tile + tile_size);
  const int states = kSingle ? 1 : static_cast<int>(a.p.states);

  const int k0 = place.direction(a, 0);
  const bool full = __syncthreads_and(stage_tokens(a, place, all_tokens, kOneOrder ? 1 : a.count));
  Weights<acc> next = load_weights<scalar_t>(a, place, all_tokens, k0, 0);
  Pack<scalar_t, kVector> raw[kTokens];
  load_delta(raw, a, place, all_tokens, k0);
  load_tile<kOneOrder, scalar_t>(a, place, u_tile, thread_row<scalar_t>(a.p.u, a.p.u_stride, place, place.group),
      a.p.u_stride.token, all_tokens, full);
  const Strides contiguous{a.p.groups * a.p.length * a.p.channels, a.p.length * a.p.channels, a.p.channels, 1};
  load_tile<kOneOrder, scalar_t>(a, place, grad_y_tile, thread_row<scalar_t>(g.grad_y, contiguous, place, place.group),
      a.p.channels, all_tokens, full);
  store_weights(shared.weights[0], next, place);
  start_exchanges(a, shared.exchange);

  int turn = 0, buffer = 0;
  for (int j = 0; j < a.count; ++j) {
    const int k = place.direction(a, j);
    const bool reversed = is_reversed(a, k), last_direction = j + 1 == a.count;
    const int base = place.base(reversed);
    const int* tokens = all_tokens + (kOneOrder ? 0 : j * place.positions);
    const int* next_tokens = kOneOrder ? tokens : tokens + place.positions;
    acc dt[kTokens][kVector], total[kVector], grad_dt[kTokens][kVector];
    if (!kPrefetch && j > 0) load_delta(raw, a, place, tokens, k);
    time_steps(dt, total, raw, a, place, tokens + base, k, full);
    if (kPrefetch && !last_direction) load_delta(raw, a, place, next_tokens, k + 1);

    for (int n = 0; n < states; ++n, ++turn) {
      const bool last_state = n + 1 == states, last = last_state && last_direction;
      if (!last) {
        const int next_k = last_state ? k + 1 : k, next_n = last_state ? 0 : n + 1;
        next = load_weights<scalar_t>(a, place, last_state ? next_tokens : tokens, next_k, next_n);
      }
      acc rate[kVector], skip[kVector] = {}, h[kVector] = {}, mu[kVector] = {};
      Pair<acc> left[kVector], right[kVector];
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const int64_t row = static_cast<int64_t>(k) * a.p.channels + place.channel + v;
        rate[v] = static_cast<const acc*>(a.p.A)[row * states + n] * exponent_scale(acc(0));
        if (n == 0 && a.p.D != nullptr) skip[v] = static_cast<const acc*>(a.p.D)[row];
      }
      const BackwardSteps<kOneOrder, acc, kVector> steps{dt, rate, shared.weights[buffer] + base, tokens + base,
          reinterpret_cast<const Wide*>(u_tile), reinterpret_cast<const Wide*>(grad_y_tile),
          reinterpret_cast<Wide*>(grad_u_tile), base, place.lane};
      if (reversed) {
        steps.template summarise<true>(h, mu);
      } else {
        steps.template summarise<false>(h, mu);
      }
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const acc decay = exponential_scaled(rate[v] * total[v]);
        left[v] = {decay, h[v]};
        right[v] = {decay, mu[v]};
      }
      buffer = buffer == 2 ? 0 : buffer + 1;
      if (!last) store_weights(shared.weights[buffer], next, place);
      const acc* grad_last_state = static_cast<const acc*>(g.grad_last_state);
      if (!incoming_pair(a, place, shared.exchange, turn, k, n, reversed, grad_last_state, left, right, h, mu)) {
        continue;
      }

      acc before[kTokens][kVector], grad_A[kVector] = {}, grad_D[kVector] = {}, grad_bias[kVector] = {};
      const int64_t first_row =
          (static_cast<int64_t>(place.tile) * a.p.batch * a.p.groups * a.p.inner + place.sequence(a, k)) * a.p.length *
              states +
          n;
      acc* to_weights = static_cast<acc*>(place.lane == 0 ? g.grad_B : g.grad_C) + first_row;
      if (reversed) {
        steps.template states<true>(before, h);
        steps.template gradients<true>(before, h, mu, grad_A, grad_D, skip, j == 0 && n == 0, to_weights, states);
      } else {
        steps.template states<false>(before, h);
        steps.template gradients<false>(before, h, mu, grad_A, grad_D, skip, j == 0 && n == 0, to_weights, states);
      }
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) grad_dt[i][v] = n == 0 ? before[i][v] : grad_dt[i][v] + before[i][v];
      }
      if (last_state) write_grad_delta<scalar_t>(a, g, place, grad_dt, dt, grad_bias, tokens + base, k);
      auto& sums = shared.parameters;
      sum_over_warp(grad_A, sums[kGradA], place);
      sum_over_warp(grad_D, sums[kGradD], place);
      sum_over_warp(grad_bias, sums[kGradBias], place);
      __syncthreads();
      write_parameters(a, g, place, sums, k, n);
    }
  }
  if (a.phase == Phase::kSummarise) return;
  write_result<kOneOrder, scalar_t>(a, place, grad_u_tile, all_tokens, g.grad_u);
}

template <bool kOneOrder, typename scalar_t, int kVector>
void launch_backward_as(const ScanLaunch& a, const SelectiveScanGradients& g) {
  const size_t bytes = BackwardShared<acc_t<scalar_t>, kVector>::bytes(a);
  if (a.p.states == 1) {
    launch_blocks(backward_kernel<kOneOrder, true, scalar_t, kVector>, a, bytes, g);
  } else {
    launch_blocks(backward_kernel<kOneOrder, false, scalar_t, kVector>, a, bytes, g);
  }
}

template <typename scalar_t>
void launch_backward(const ScanLaunch& a, const SelectiveScanGradients& g) {
  if constexpr (sizeof(scalar_t) <= 4) {
    if (a.vector == 2) {
      return a.one_order ? launch_backward_as<true, scalar_t, 2>(a, g) : launch_backward_as<false, scalar_t, 2>(a, g);
    }
  }
  a.one_order ? launch_backward_as<true, scalar_t, 1>(a, g) : launch_backward_as<false, scalar_t, 1>(a, g);
}

}  // namespace ssm
