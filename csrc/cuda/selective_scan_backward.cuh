// The selective scan's backward kernel: the states once more from the left, their gradients from the right, in one
// exchange; then every gradient. The gradient that travels is μ(s) = a(s) · λ(s), so that it decays as the state does.
#pragma once

#include "selective_scan_configure.cuh"
#include "selective_scan_exchange.cuh"

namespace ssm {

enum ParameterGradient { kGradA, kGradD, kGradBias, kParameterGradients };

template <typename acc, int kVector>
struct BackwardShared {
  ExchangeBuffers<acc, kVector, 3> exchange;
  Weights<acc> weights[3][kMaxPositions];
  acc parameters[2][kParameterGradients][kMaxWarps][kLanes * kVector];
  // Followed by acc u[positions][kLanes * kVector], grad_y[the same], grad_u[the same], int tokens[orders][positions].

  static size_t bytes(const ScanLaunch& a) {
    const size_t positions = static_cast<size_t>(a.subchunks) * kTokens;
    const size_t orders = a.one_order ? 1 : a.count;
    return sizeof(BackwardShared) + positions * (3 * kLanes * kVector * sizeof(acc) + orders * sizeof(int));
  }
};

// h as it comes in at this thread's first step, and μ as it comes in at its last; false where the launch summarises.
template <int kVector, typename acc>
__device__ __forceinline__ bool incoming_pair(const ScanLaunch& a, const Place<kVector>& place,
    ExchangeBuffers<acc, kVector, 3>& buffers, int parity, int64_t k, int64_t n, bool reversed,
    const acc* grad_last_state, const acc (&decay)[kVector], acc (&h)[kVector], acc (&mu)[kVector]) {
  acc left_decay[kVector], right_decay[kVector], block_decay[kVector], block_state[kVector], block_gradient[kVector];
#pragma unroll
  for (int v = 0; v < kVector; ++v) left_decay[v] = right_decay[v] = decay[v];
  auto warp = buffers.warp[parity];
  scan_warp<false>(left_decay, h, warp[0], warp[1], place);
  scan_warp<true, kVector, acc>(right_decay, mu, nullptr, warp[2], place);
  __syncthreads();
  scan_block<false>(left_decay, h, block_decay, block_state, warp[0], warp[1], place);
  scan_block<true>(right_decay, mu, block_decay, block_gradient, warp[0], warp[2], place);
  const int64_t at = place.in_workspace(a, k, n);
  if (a.phase == Phase::kSummarise) {
    for (int v = 0; v < kVector; ++v) {
      if (place.sub != 0 || !place.inside) break;
      static_cast<acc*>(a.chunk_decay)[at + v] = block_decay[v];
      static_cast<acc*>(a.chunk_state)[at + v] = block_state[v];
      static_cast<acc*>(a.chunk_gradient)[at + v] = block_gradient[v];
    }
    return false;
  }
  acc from_left[kVector] = {}, from_right[kVector] = {};
  if (a.phase == Phase::kApply) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      if (!place.inside) continue;
      from_left[v] = static_cast<const acc*>(a.state_before)[at + v];
      from_right[v] = static_cast<const acc*>(a.gradient_after)[at + v];
    }
  } else {
    if (grad_last_state != nullptr && place.inside) {
      const int64_t row = place.sequence(a, k) * a.p.channels + place.channel;
#pragma unroll
      for (int v = 0; v < kVector; ++v) from_right[v] = grad_last_state[(row + v) * a.p.states + n];
    }
    if (a.chunks > 1) {
      auto block = buffers.block[parity];
      if (place.sub == 0) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          const int column = place.lane * kVector + v;
          write_to_cluster(&block[0][place.chunk][column], block_decay[v], a.chunks);
          write_to_cluster(&block[1][place.chunk][column], block_state[v], a.chunks);
          write_to_cluster(&block[2][place.chunk][column], block_gradient[v], a.chunks);
        }
      }
      sync_cluster();
      scan_cluster<false>(from_left, block[0], block[1], a.chunks, reversed, place);
      scan_cluster<true>(from_right, block[0], block[2], a.chunks, reversed, place);
    }
  }
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    h[v] = left_decay[v] * from_left[v] + h[v];
    mu[v] = right_decay[v] * from_right[v] + mu[v];
  }
  return true;
}

// Sum over the channels of the tile; every thread of the row gets it.
template <int kVector, typename acc>
__device__ __forceinline__ acc sum_of_row(const acc (&value)[kVector]) {
  acc sum = value[0];
#pragma unroll
  for (int v = 1; v < kVector; ++v) sum += value[v];
#pragma unroll
  for (int offset = 1; offset < kLanes; offset *= 2) sum += __shfl_xor_sync(kFullWarp, sum, offset);
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
    const Place<kVector>& place, const acc (*sums)[kMaxWarps][kLanes * kVector], int64_t k, int64_t n) {
  const int column = threadIdx.x;
  const int64_t channel = place.tile * kLanes * kVector + column;
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

template <typename scalar_t, int kVector, bool kSingle>
__global__ void __launch_bounds__(kMaxThreads, kSingle ? 2 : 1)
    backward_kernel(const __grid_constant__ ScanLaunch a, const __grid_constant__ SelectiveScanGradients g) {
  using acc = acc_t<scalar_t>;
  using Wide = Pack<acc, kVector>;
  extern __shared__ __align__(16) char memory[];
  auto& shared = *reinterpret_cast<BackwardShared<acc, kVector>*>(memory);
  const Place<kVector> place(a);
  const int tile_size = place.positions * kLanes * kVector;
  acc* u_tile = reinterpret_cast<acc*>(memory + sizeof(shared));
  acc* grad_y_tile = u_tile + tile_size;
  acc* grad_u_tile = grad_y_tile + tile_size;
  int* all_tokens = reinterpret_cast<int*>(grad_u_tile + tile_size);
  const int states = kSingle ? 1 : static_cast<int>(a.p.states);

  stage_tokens(a, place, all_tokens);
  __syncthreads();
  const int64_t k0 = place.direction(a, 0);
  Weights<acc> next = load_weights<scalar_t>(a, place, all_tokens, k0, 0);
  Pack<scalar_t, kVector> raw[kTokens];
  load_delta(raw, a, place, all_tokens, k0, Walk(is_reversed(a, k0), place.sub, place.positions));
  load_tile<scalar_t>(a, place, u_tile, thread_row<scalar_t>(a.p.u, a.p.u_stride, place, place.group),
      a.p.u_stride.token, all_tokens);
  const Strides contiguous{a.p.groups * a.p.length * a.p.channels, a.p.length * a.p.channels, a.p.channels, 1};
  load_tile<scalar_t>(a, place, grad_y_tile, thread_row<scalar_t>(g.grad_y, contiguous, place, place.group),
      a.p.channels, all_tokens);
  if (static_cast<int>(threadIdx.x) < place.positions) shared.weights[0][threadIdx.x] = next;
  sync_start(a);

  int parity = 0, turn = 0;
  for (int j = 0; j < a.count; ++j) {
    const int64_t k = place.direction(a, j);
    const bool reversed = is_reversed(a, k), last_direction = j + 1 == a.count;
    const int* tokens = all_tokens + (a.one_order ? 0 : j * place.positions);
    const int* next_tokens = all_tokens + (a.one_order ? 0 : (j + 1) * place.positions);
    const Walk walk(reversed, place.sub, place.positions);
    acc dt[kTokens][kVector], total[kVector], grad_dt[kTokens][kVector] = {};
    time_steps(dt, total, raw, a, place, tokens, k, walk);
    if (!last_direction) {
      load_delta(raw, a, place, next_tokens, k + 1, Walk(is_reversed(a, k + 1), place.sub, place.positions));
    }
    const auto row = [&](int i) { return (a.one_order ? walk[i] : max(tokens[walk[i]], 0)) * kLanes + place.lane; };

    for (int n = 0; n < states; ++n, parity ^= 1, turn = turn == 2 ? 0 : turn + 1) {
      const bool last_state = n + 1 == states;
      if (!last_state) {
        next = load_weights<scalar_t>(a, place, tokens, k, n + 1);
      } else if (!last_direction) {
        next = load_weights<scalar_t>(a, place, next_tokens, k + 1, 0);
      }
      const Weights<acc>* weights = shared.weights[turn];
      acc rate[kVector], decay[kVector], h[kVector] = {}, mu[kVector] = {};
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const acc* A = static_cast<const acc*>(a.p.A) + (k * a.p.channels + place.channel + v) * states;
        rate[v] = place.inside ? A[n] * exponent_scale(acc(0)) : acc(0);
        decay[v] = exponential_scaled(rate[v] * total[v]);
      }
      // What this thread's steps do to h, walking right, and to μ, walking left: Σ_i (Π_{m ≤ i} a_m) C_i g_i.
      acc reach[kVector];
#pragma unroll
      for (int v = 0; v < kVector; ++v) reach[v] = acc(1);
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        const Wide u = reinterpret_cast<const Wide*>(u_tile)[row(i)];
        const Wide gy = reinterpret_cast<const Wide*>(grad_y_tile)[row(i)];
        const Weights<acc> w = weights[walk[i]];
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          const acc factor = exponential_scaled(dt[i][v] * rate[v]);
          h[v] = factor * h[v] + dt[i][v] * u.value[v] * w.B;
          reach[v] *= factor;
          mu[v] += reach[v] * gy.value[v] * w.C;
        }
      }
      if (!(last_state && last_direction) && static_cast<int>(threadIdx.x) < place.positions) {
        shared.weights[turn == 2 ? 0 : turn + 1][threadIdx.x] = next;
      }
      const acc* grad_last_state = static_cast<const acc*>(g.grad_last_state);
      if (!incoming_pair(a, place, shared.exchange, parity, k, n, reversed, grad_last_state, decay, h, mu)) continue;

      acc before[kTokens][kVector];  // h before each step
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        const Wide u = reinterpret_cast<const Wide*>(u_tile)[row(i)];
        const acc B = weights[walk[i]].B;
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          before[i][v] = h[v];
          h[v] = exponential_scaled(dt[i][v] * rate[v]) * h[v] + dt[i][v] * u.value[v] * B;
        }
      }

      acc skip[kVector], grad_A[kVector] = {}, grad_D[kVector] = {}, grad_bias[kVector] = {}, A[kVector];
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const bool has_skip = n == 0 && a.p.D != nullptr && place.inside;
        skip[v] = has_skip ? static_cast<const acc*>(a.p.D)[k * a.p.channels + place.channel + v] : acc(0);
        A[v] = rate[v] * (acc(1) / exponent_scale(acc(0)));
      }
#pragma unroll
      for (int i = kTokens - 1; i >= 0; --i) {
        const int token = tokens[walk[i]];
        const Wide u = reinterpret_cast<const Wide*>(u_tile)[row(i)];
        const Wide gy = reinterpret_cast<const Wide*>(grad_y_tile)[row(i)];
        const Weights<acc> w = weights[walk[i]];
        acc to_B[kVector], to_C[kVector];
        Wide grad_u;
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          const acc step = dt[i][v], factor = exponential_scaled(step * rate[v]);
          const acc lambda = w.C * gy.value[v] + mu[v];
          mu[v] = factor * lambda;
          const acc exponent = mu[v] * before[i][v];
          const acc drive = lambda * step;
          grad_A[v] += exponent * step;
          grad_dt[i][v] += exponent * A[v] + lambda * w.B * u.value[v];
          to_B[v] = drive * u.value[v];
          to_C[v] = gy.value[v] * h[v];
          grad_u.value[v] = drive * w.B + skip[v] * gy.value[v];
          h[v] = before[i][v];
          if (n == 0 && token >= 0) grad_D[v] += gy.value[v] * u.value[v];
        }
        const acc sum_B = sum_of_row(to_B), sum_C = sum_of_row(to_C);
        if (token < 0) continue;
        Wide& sum = reinterpret_cast<Wide*>(grad_u_tile)[row(i)];
        if (j > 0 || n > 0) {
          const Wide so_far = sum;
#pragma unroll
          for (int v = 0; v < kVector; ++v) grad_u.value[v] += so_far.value[v];
        }
        sum = grad_u;
        const int64_t sequence = place.tile * a.p.batch * a.p.groups * a.p.inner + place.sequence(a, k);
        const int64_t at = (sequence * a.p.length + token) * states + n;
        if (place.lane == 0) static_cast<acc*>(g.grad_B)[at] = sum_B;
        if (place.lane == 1) static_cast<acc*>(g.grad_C)[at] = sum_C;
      }

      if (last_state) {
        char* grad_delta = reinterpret_cast<char*>(static_cast<scalar_t*>(g.grad_delta) +
            place.sequence(a, k) * a.p.length * a.p.channels + place.channel);
#pragma unroll
        for (int i = 0; i < kTokens; ++i) {
          const int token = tokens[walk[i]];
          Pack<scalar_t, kVector> narrow;
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            acc gradient = grad_dt[i][v];
            if (a.p.delta_softplus) gradient *= softplus_slope(dt[i][v]);
            if (token >= 0) grad_bias[v] += gradient;
            narrow.value[v] = static_cast<scalar_t>(gradient);
          }
          if (token < 0 || !place.inside) continue;
          const int64_t offset = token * a.p.channels * static_cast<int64_t>(sizeof(scalar_t));
          *reinterpret_cast<Pack<scalar_t, kVector>*>(grad_delta + offset) = narrow;
        }
      }
      auto sums = shared.parameters[parity];
      sum_over_warp(grad_A, sums[kGradA], place);
      sum_over_warp(grad_D, sums[kGradD], place);
      sum_over_warp(grad_bias, sums[kGradBias], place);
      __syncthreads();
      write_parameters(a, g, place, sums, k, n);
    }
  }
  if (a.phase == Phase::kSummarise) return;
  write_result<scalar_t>(a, place, grad_u_tile, all_tokens, g.grad_u);
}

template <typename scalar_t, int kVector>
void launch_backward_as(const ScanLaunch& a, const SelectiveScanGradients& g) {
  const size_t bytes = BackwardShared<acc_t<scalar_t>, kVector>::bytes(a);
  if (a.p.states == 1) {
    launch_blocks(backward_kernel<scalar_t, kVector, true>, a, bytes, g);
  } else {
    launch_blocks(backward_kernel<scalar_t, kVector, false>, a, bytes, g);
  }
}

template <typename scalar_t>
void launch_backward(const ScanLaunch& a, const SelectiveScanGradients& g) {
  if constexpr (sizeof(scalar_t) <= 4) {
    if (a.vector == 2) return launch_backward_as<scalar_t, 2>(a, g);
  }
  launch_backward_as<scalar_t, 1>(a, g);
}

}  // namespace ssm
