// The backward pass with many states a channel. A thread walks its chunk from the end. For each run of kStateRun tokens
// it computes the decays and states again, from the state before the run, into registers, and then all gradients. What
// it carries is μ(s) = a(s) · λ(s), the gradient λ of the state times the decay a.
#pragma once

#include "selective_scan/cuda/states_stream.cuh"

namespace ssm {

// What a chunk does to the gradient of the state.
template <typename scalar_t, int kLanes>
__global__ void __launch_bounds__(states_threads(sizeof(scalar_t)))
    states_adjoint_kernel(const __grid_constant__ StatesLaunch l, const __grid_constant__ SelectiveScanGradients g) {
  using acc = acc_t<scalar_t>;
  using Step = BackwardStep<acc>;
  constexpr int kOwn = kOwnStates, kStates = kOwn * kLanes;
  extern __shared__ __align__(16) char memory[];
  const StatesPlace<kOwn, kLanes> place(l);
  if (place.batch >= l.scan.p.batch) return;
  const StatesMemory<scalar_t, Step> m(place.channels, kStates, 1, true, 0, memory);
  acc rate[kOwn], mu[kOwn] = {};
  load_A<false>(rate, l, place);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) rate[i] = decay_rate<scalar_t>(rate[i]);
  TileStream<scalar_t, Step, 1, StatesPlace<kOwn, kLanes>> stream(l, place, m, g.grad_y);
  stream.each(true, [&](int, const int*, const scalar_t*) {
#pragma unroll 4
    for (int row = kStateTile - 1; row >= 0; --row) {
      const Step step = m.steps[row * place.channels + place.column];
      const auto C = load_pack<acc, kOwn>(m.C + row * kStates, place.part);
#pragma unroll
      for (int s = 0; s < kOwn; ++s) mu[s] = decay(step.dt * rate[s]) * (C.value[s] * step.grad + mu[s]);
    }
  });
  store_states<false>(mu, l, place, l.scan.chunk_gradient, true);
}

// Sums kOwn gradients of B and as many of C over the channels of a warp. The thread has, in place i, those of the state
// i ^ its channel (StatesPlace::state): what it gives to a neighbour is always in the same places. Afterwards a thread
// has the sum of one state, that in its place 0, of B or, if its channel's third bit is set, of C.
template <int kLanes, typename acc>
__device__ __forceinline__ acc sum_over_channels(acc (&B)[kOwnStates], acc (&C)[kOwnStates], int neighbour) {
  static_assert(kOwnStates == 4 && kLanes <= 4);
#pragma unroll
  for (int half = 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) {
      B[i] += __shfl_xor_sync(kFullWarp, B[i + half], half * kLanes);
      C[i] += __shfl_xor_sync(kFullWarp, C[i + half], half * kLanes);
    }
  }
  acc sum = exchange_halves((neighbour & 4) != 0, 4 * kLanes, B[0], C[0]);
#pragma unroll
  for (int offset = 8 * kLanes; offset < 32; offset *= 2) sum += __shfl_xor_sync(kFullWarp, sum, offset);
  return sum;
}

template <typename scalar_t, int kLanes>
__global__ void __launch_bounds__(states_backward_threads(sizeof(scalar_t)))
    states_backward_kernel(const __grid_constant__ StatesLaunch l, const __grid_constant__ SelectiveScanGradients g) {
  using acc = acc_t<scalar_t>;
  using Step = BackwardStep<acc>;
  constexpr int kOwn = kOwnStates, kStates = kOwn * kLanes, kRun = kStateRun;
  extern __shared__ __align__(16) char memory[];
  const ScanLaunch& a = l.scan;
  const StatesPlace<kOwn, kLanes> place(l);
  if (place.batch >= a.p.batch) return;
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, order = place.neighbour & (kOwn - 1);
  const StatesMemory<scalar_t, Step> m(place.channels, kStates, kWeightCopies, true, warps, memory);
  const acc *own_B = m.B + order * kStates + place.part * kOwn, *own_C = m.C + order * kStates + place.part * kOwn;
  acc A[kOwn], mu[kOwn], grad_A[kOwn] = {};
  Two<acc> grad_D{}, grad_bias{};
  load_A<true>(A, l, place);
  if (a.phase == Phase::kApply) {
    load_states<true>(mu, l, place, a.gradient_after, true);
  } else {
    load_states<true>(mu, l, place, g.grad_last_state, false);
  }
  const auto skip = parameters_of<acc>(l, l.first_state == 0 ? a.p.D : nullptr, place);

  TileStream<scalar_t, Step, kWeightCopies, StatesPlace<kOwn, kLanes>> stream(l, place, m, g.grad_y);
  stream.each(true, [&](int t, const int* tokens, const scalar_t*) {
    const acc* checkpoint = static_cast<const acc*>(l.checkpoints) + place.in_checkpoints(l, t, kRunsOfTile - 1);
    const int64_t to_run_before = a.p.channels * kStates;
    Pack<acc, kOwn> next_kept{};
    if (place.exists()) next_kept = *reinterpret_cast<const Pack<acc, kOwn>*>(checkpoint);
#pragma unroll 1
    for (int run = kRunsOfTile - 1; run >= 0; --run) {
      const int first = run * kRun;
      acc before[kOwn];
      {
        const auto kept = next_kept;
        checkpoint -= to_run_before;
        if (place.exists() && run > 0) next_kept = *reinterpret_cast<const Pack<acc, kOwn>*>(checkpoint);
        // The states as this thread keeps them. The first swap exchanges neighbours, the second one pairs.
        const bool odd = order & 1, high = order & 2;
        const acc v0 = odd ? kept.value[1] : kept.value[0], v1 = odd ? kept.value[0] : kept.value[1];
        const acc v2 = odd ? kept.value[3] : kept.value[2], v3 = odd ? kept.value[2] : kept.value[3];
        before[0] = high ? v2 : v0;
        before[1] = high ? v3 : v1;
        before[2] = high ? v0 : v2;
        before[3] = high ? v1 : v3;
      }
      acc factor[kRun][kOwn], h[kRun][kOwn];
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const Step step = m.steps[(first + i) * place.channels + place.column];
        const auto B = load_pack<acc, kOwn>(own_B + (first + i) * kWeightCopies * kStates, 0);
#pragma unroll
        for (int s = 0; s < kOwn; ++s) {
          factor[i][s] = decay(step.dt * decay_rate<scalar_t>(A[s]));
          h[i][s] = factor[i][s] * (i > 0 ? h[i > 0 ? i - 1 : 0][s] : before[s]) + step.drive * B.value[s];
        }
      }
      acc token_sums[2 * kRun];
#pragma unroll
      for (int i = kRun - 1; i >= 0; --i) {
        const Step step = m.steps[(first + i) * place.channels + place.column];
        const auto B = load_pack<acc, kOwn>(own_B + (first + i) * kWeightCopies * kStates, 0);
        const auto C = load_pack<acc, kOwn>(own_C + (first + i) * kWeightCopies * kStates, 0);
        acc for_B[kOwn], for_C[kOwn], through_decay = 0, through_input = 0;
#pragma unroll
        for (int s = 0; s < kOwn; ++s) {
          const acc lambda = C.value[s] * step.grad + mu[s];
          for_C[s] = step.grad * h[i][s];
          for_B[s] = step.drive * lambda;
          through_input += lambda * B.value[s];
          mu[s] = factor[i][s] * lambda;
          const acc exponent = mu[s] * (i > 0 ? h[i > 0 ? i - 1 : 0][s] : before[s]);
          grad_A[s] += exponent * step.dt;
          through_decay += exponent * A[s];
        }
        token_sums[2 * i] = through_decay;
        token_sums[2 * i + 1] = through_input;
        const acc sum = sum_over_channels<kLanes>(for_B, for_C, place.neighbour);
        if (place.neighbour < 8) {
          const int kind = place.neighbour >> 2;
          m.sums[((warp * kStateTile + first + i) * 2 + kind) * kStates + place.part * kOwn + order] = sum;
        }
      }
      split_sums<kLanes>(token_sums);
      constexpr int kMine = kRun / kLanes;
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        const int at = (first + place.part * kMine + i) * place.channels + place.column;
        m.results[at] = {token_sums[2 * i], token_sums[2 * i + 1]};
      }
    }
    __syncthreads();
    const SumOverDirections<scalar_t> grad_u(l, place, g.grad_u);
    grad_u.write([&](const auto& put) {
#pragma unroll 2
      for (int row = place.first_row; row < kStateTile; row += place.kRowStep) {
        const int token = tokens[row], own = row * place.channels + place.row_column;
        Two<acc> gradient;
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          const Step step = m.steps[own + v];
          gradient.value[v] = m.results[own + v].input * step.dt + skip.value[v] * step.grad;
          grad_D.value[v] += step.grad * step.x;
        }
        if (token >= 0) put(token, gradient);
      }
    });
    const ChannelsOfTokens<scalar_t> grad_delta(l, place, g.grad_delta, place.sequence * a.p.length);
    const ChannelsOfTokens<acc> delta_sum(l, place, l.delta_sum, place.sequence * a.p.length);
#pragma unroll 2
    for (int row = place.first_row; row < kStateTile; row += place.kRowStep) {
      const int token = tokens[row], own = row * place.channels + place.row_column;
      if (token < 0) continue;
      Two<acc> gradient;
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        const TokenSums<acc> sums = m.results[own + v];
        gradient.value[v] = sums.decay * kUnit<scalar_t> + sums.input * m.steps[own + v].x;
      }
      if (l.delta_sum != nullptr) {
        if (l.delta_add) gradient = gradient + delta_sum.load(token);
        if (!l.delta_finish) {
          delta_sum.store(token, gradient);
          continue;
        }
      }
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        const acc dt = m.steps[own + v].dt;
        gradient.value[v] *= a.p.delta_softplus ? softplus_slope<scalar_t>(dt) : acc(1) / kUnit<scalar_t>;
      }
      grad_bias = grad_bias + gradient;
      grad_delta.store(token, gradient);
    }
    const int64_t weights =
        (static_cast<int64_t>(place.split) * a.p.batch * a.p.groups * a.p.inner + place.sequence) * a.p.length;
    const int left = l.states(), stride = static_cast<int>(a.p.states);
    for (int i = threadIdx.x; i < kStateTile * 2 * kLanes; i += blockDim.x) {
      const int n = i % kLanes * kOwn, token = tokens[i / (2 * kLanes)];
      const bool of_C = i / kLanes & 1;
      if (token < 0 || n >= left) continue;
      Pack<acc, kOwn> total{};
#pragma unroll 4
      for (int w = 0; w < warps; ++w) {
        const auto part = load_pack<acc, kOwn>(m.sums + w * kStateTile * 2 * kStates, i);
#pragma unroll
        for (int s = 0; s < kOwn; ++s) total.value[s] += part.value[s];
      }
#pragma unroll
      for (int s = 0; s < kOwn; ++s) total.value[s] *= of_C ? acc(1) : kUnit<scalar_t>;
      acc* to = static_cast<acc*>(of_C ? g.grad_C : g.grad_B) + (weights + token) * stride + l.first_state + n;
      if (stride % kOwn == 0) {
        *reinterpret_cast<Pack<acc, kOwn>*>(to) = total;
      } else {
#pragma unroll
        for (int s = 0; s < kOwn; ++s) {
          if (n + s < left) to[s] = total.value[s];
        }
      }
    }
  });

  // A row of the partial gradients for each chunk of each sample.
  const int64_t row =
      (static_cast<int64_t>(place.chunk) * a.p.batch * a.p.groups * a.p.inner + place.sequence) * a.p.channels;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int n = place.template state<true>(i);
    if (!place.exists() || n >= l.states()) continue;
    static_cast<acc*>(g.grad_A)[(row + place.channel) * a.p.states + l.first_state + n] = grad_A[i] * kUnit<scalar_t>;
  }
  // The threads that have the same two channels.
  __syncthreads();
  auto* shared = reinterpret_cast<Two<acc>*>(m.results);
  shared[2 * threadIdx.x] = grad_D;
  shared[2 * threadIdx.x + 1] = grad_bias;
  __syncthreads();
  if (place.first_row > 0) return;
  for (int i = 1; i < place.kRowStep; ++i) {
    const int other = 2 * (i * (place.channels / 2) + place.row_column / 2);
    grad_D = grad_D + shared[other];
    grad_bias = grad_bias + shared[other + 1];
  }
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    if (place.row_channel + v >= a.p.channels) continue;
    const int64_t at = row + place.row_channel + v;
    if (l.first_state == 0) static_cast<acc*>(g.grad_D)[at] = grad_D.value[v];
    if (l.delta_sum == nullptr || l.delta_finish) static_cast<acc*>(g.grad_delta_bias)[at] = grad_bias.value[v];
  }
}

template <typename scalar_t, int kLanes>
void launch_states_adjoint_as(const StatesLaunch& l, const SelectiveScanGradients& g) {
  const int channels = l.threads / kLanes;
  const StatesMemory<scalar_t, BackwardStep<acc_t<scalar_t>>> memory(
      channels, kOwnStates * kLanes, 1, true, 0, nullptr);
  launch_states(states_adjoint_kernel<scalar_t, kLanes>, l, channels, memory.bytes, g);
}
template <typename scalar_t, int kLanes>
void launch_states_backward_as(const StatesLaunch& l, const SelectiveScanGradients& g) {
  const int channels = l.threads / kLanes;
  launch_states(states_backward_kernel<scalar_t, kLanes>, l, channels,
      states_backward_bytes<scalar_t>(channels, kOwnStates * kLanes, l.threads / 32), g);
}

template <typename scalar_t>
void launch_states_adjoint(const StatesLaunch& l, const SelectiveScanGradients& g) {
  switch (state_lanes(l.scan.p.states, kOwnStates)) {
    case 1:
      return launch_states_adjoint_as<scalar_t, 1>(l, g);
    case 2:
      return launch_states_adjoint_as<scalar_t, 2>(l, g);
    default:
      return launch_states_adjoint_as<scalar_t, 4>(l, g);
  }
}
template <typename scalar_t>
void launch_states_backward(const StatesLaunch& l, const SelectiveScanGradients& g) {
  switch (state_lanes(l.scan.p.states, kOwnStates)) {
    case 1:
      return launch_states_backward_as<scalar_t, 1>(l, g);
    case 2:
      return launch_states_backward_as<scalar_t, 2>(l, g);
    default:
      return launch_states_backward_as<scalar_t, 4>(l, g);
  }
}

}  // namespace ssm
