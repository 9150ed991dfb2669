// The backward pass with many states a channel. A thread walks its chunk from the end. For each run of kStateRun tokens
// it computes the decays and states again, from the state before the run, into registers, and then all gradients. What
// it carries is μ(s) = a(s) · λ(s), the gradient λ of the state times the decay a.
#pragma once

#include "selective_scan/cuda/states.cuh"

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
  TileStream<scalar_t, Step, 1, kOwn, kLanes> stream(l, place, m, g.grad_y);
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

// Sums over the states of a token and channel: the gradient of Δ through the decays, and Σ λ B.
template <typename acc>
struct alignas(2 * sizeof(acc)) TokenSums {
  acc decay, input;
};

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
  auto* results = reinterpret_cast<TokenSums<acc>*>(m.results);
  acc A[kOwn], mu[kOwn], grad_A[kOwn] = {}, grad_D = 0, grad_bias = 0;
  load_A<true>(A, l, place);
  if (a.phase == Phase::kApply) {
    load_states<true>(mu, l, place, a.gradient_after, true);
  } else {
    load_states<true>(mu, l, place, g.grad_last_state, false);
  }
  const acc skip = l.first_state == 0 ? parameter_of<acc>(l, a.p.D, place) : acc(0);
  const SumOverDirections<scalar_t> grad_u(l, place, g.grad_u);
  const int64_t in_delta = place.sequence * a.p.length * a.p.channels + place.row_channel;
  const ChannelOfTokens<scalar_t> grad_delta(g.grad_delta, in_delta, a.p.channels);
  const ChannelOfTokens<acc> delta_sum(l.delta_sum, in_delta, a.p.channels);

  TileStream<scalar_t, Step, kWeightCopies, kOwn, kLanes> stream(l, place, m, g.grad_y);
  stream.each(true, [&](int t, const int* tokens, const scalar_t*) {
#pragma unroll 1
    for (int run = kRunsOfTile - 1; run >= 0; --run) {
      const int first = run * kRun;
      acc before[kOwn];
      {
        Pack<acc, kOwn> kept{};
        const acc* from = static_cast<const acc*>(l.checkpoints) + place.in_checkpoints(l, t, run);
        if (place.exists) kept = *reinterpret_cast<const Pack<acc, kOwn>*>(from);
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
        results[at] = {token_sums[2 * i], token_sums[2 * i + 1]};
      }
    }
    __syncthreads();
    grad_u.write([&](const auto& put) {
#pragma unroll 2
      for (int row = place.first_row; row < kStateTile; row += kLanes) {
        const int token = tokens[row], own = row * place.channels + place.row_column;
        const Step step = m.steps[own];
        const TokenSums<acc> sums = results[own];
        if (token >= 0 && place.row_exists) put(token, sums.input * step.dt + skip * step.grad);
        grad_D += step.grad * step.x;
      }
    });
    const auto grad_of_dt = [&](int row) {
      const int own = row * place.channels + place.row_column;
      return results[own].decay * kUnit<scalar_t> + results[own].input * m.steps[own].x;
    };
    if (l.delta_sum == nullptr || l.delta_finish) {
#pragma unroll 2
      for (int row = place.first_row; row < kStateTile; row += kLanes) {
        const int token = tokens[row];
        acc grad_dt = grad_of_dt(row);
        const acc dt = m.steps[row * place.channels + place.row_column].dt;
        const bool really = token >= 0 && place.row_exists;
        if (l.delta_sum != nullptr && really) grad_dt += *delta_sum.at(token);
        grad_dt *= a.p.delta_softplus ? softplus_slope<scalar_t>(dt) : acc(1) / kUnit<scalar_t>;
        if (!really) continue;
        grad_bias += grad_dt;
        *grad_delta.at(token) = static_cast<scalar_t>(grad_dt);
      }
    } else {
      for (int row = place.first_row; row < kStateTile; row += kLanes) {
        if (tokens[row] < 0 || !place.row_exists) continue;
        acc* const sum = delta_sum.at(tokens[row]);
        *sum = grad_of_dt(row) + (l.delta_add ? *sum : acc(0));
      }
    }
    const int64_t weights =
        (static_cast<int64_t>(place.split) * a.p.batch * a.p.groups * a.p.inner + place.sequence) * a.p.length;
    for (int i = threadIdx.x; i < kStateTile * 2 * kStates; i += blockDim.x) {
      const int n = i % kStates, token = tokens[i / (2 * kStates)];
      const bool of_C = i / kStates & 1;
      if (token < 0 || n >= l.states()) continue;
      acc total = 0;
      for (int w = 0; w < warps; ++w) total += m.sums[w * kStateTile * 2 * kStates + i];
      static_cast<acc*>(of_C ? g.grad_C : g.grad_B)[(weights + token) * a.p.states + l.first_state + n] =
          of_C ? total : total * kUnit<scalar_t>;
    }
  });

  // A row of the partial gradients for each chunk of each sample.
  const int64_t row =
      (static_cast<int64_t>(place.chunk) * a.p.batch * a.p.groups * a.p.inner + place.sequence) * a.p.channels;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int n = place.template state<true>(i);
    if (!place.exists || n >= l.states()) continue;
    static_cast<acc*>(g.grad_A)[(row + place.channel) * a.p.states + l.first_state + n] = grad_A[i] * kUnit<scalar_t>;
  }
  __syncthreads();
  results[threadIdx.x] = {grad_D, grad_bias};
  __syncthreads();
  if (place.first_row > 0 || !place.row_exists) return;
  for (int i = 1; i < kLanes; ++i) {
    const TokenSums<acc> other = results[i * place.channels + place.row_column];
    grad_D += other.decay;
    grad_bias += other.input;
  }
  if (l.first_state == 0) static_cast<acc*>(g.grad_D)[row + place.row_channel] = grad_D;
  if (l.delta_sum == nullptr || l.delta_finish) {
    static_cast<acc*>(g.grad_delta_bias)[row + place.row_channel] = grad_bias;
  }
}

template <typename scalar_t, int kLanes>
void launch_states_adjoint_as(const StatesLaunch& l, const SelectiveScanGradients& g) {
  const StatesMemory<scalar_t, BackwardStep<acc_t<scalar_t>>> memory(
      l.threads / kLanes, kOwnStates * kLanes, 1, true, 0, nullptr);
  launch_states(states_adjoint_kernel<scalar_t, kLanes>, l, kLanes, memory.bytes, g);
}
template <typename scalar_t, int kLanes>
void launch_states_backward_as(const StatesLaunch& l, const SelectiveScanGradients& g) {
  launch_states(states_backward_kernel<scalar_t, kLanes>, l, kLanes,
      states_backward_bytes<scalar_t>(l.threads, kOwnStates * kLanes), g);
}

template <typename scalar_t>
void launch_states_adjoint(const StatesLaunch& l, const SelectiveScanGradients& g) {
  switch (state_lanes(l.scan.p.states, kOwnStates)) {
    case 1: return launch_states_adjoint_as<scalar_t, 1>(l, g);
    case 2: return launch_states_adjoint_as<scalar_t, 2>(l, g);
    default: return launch_states_adjoint_as<scalar_t, 4>(l, g);
  }
}
template <typename scalar_t>
void launch_states_backward(const StatesLaunch& l, const SelectiveScanGradients& g) {
  switch (state_lanes(l.scan.p.states, kOwnStates)) {
    case 1: return launch_states_backward_as<scalar_t, 1>(l, g);
    case 2: return launch_states_backward_as<scalar_t, 2>(l, g);
    default: return launch_states_backward_as<scalar_t, 4>(l, g);
  }
}

}  // namespace ssm
