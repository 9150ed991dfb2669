// The walk along the sequence with many states a channel: the forward pass, what a chunk does to the state, and the
// states from which the backward pass starts. dev/log has the experiments behind it.
#pragma once

#include "selective_scan/cuda/states_stream.cuh"

namespace ssm {

template <typename scalar_t, Walk kWalk, int kOwn, int kLanes>
__global__ void __launch_bounds__(states_threads(sizeof(scalar_t)))
    states_walk_kernel(const __grid_constant__ StatesLaunch l) {
  using acc = acc_t<scalar_t>;
  using Step = ForwardStep<acc>;
  extern __shared__ __align__(16) char memory[];
  const ScanLaunch& a = l.scan;
  const StatesPlace<kOwn, kLanes> place(l);
  if (place.batch >= a.p.batch) return;
  constexpr int kStates = kOwn * kLanes;
  const StatesMemory<scalar_t, Step> m(place.channels, kStates, 1, false, 0, memory);
  acc rate[kOwn], h[kOwn], elapsed = 0;
  load_A<false>(rate, l, place);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) rate[i] = decay_rate<scalar_t>(rate[i]);
  load_states<false>(h, l, place, a.phase == Phase::kApply ? a.state_before : nullptr, true);
  const auto skip = parameters_of<acc>(l, l.first_state == 0 ? a.p.D : nullptr, place);

  TileStream<scalar_t, Step, 1, kOwn, kLanes> stream(l, place, m, nullptr);
  stream.each(false, [&](int t, const int* tokens, const scalar_t* u) {
    constexpr int kGroup = kStateRun;  // tokens that are walked at once
#pragma unroll 1
    for (int first = 0; first < kStateTile; first += kGroup) {
      if constexpr (kWalk == Walk::kCheckpoints) {
        Pack<acc, kOwn> kept;
#pragma unroll
        for (int i = 0; i < kOwn; ++i) kept.value[i] = h[i];
        acc* to = static_cast<acc*>(l.checkpoints) + place.in_checkpoints(l, t, first / kStateRun);
        if (place.exists) *reinterpret_cast<Pack<acc, kOwn>*>(to) = kept;
      }
      acc y[kGroup];
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const Step step = m.steps[(first + i) * place.channels + place.column];
        const auto B = load_pack<acc, kOwn>(m.B + (first + i) * kStates, place.part);
        const auto C = load_pack<acc, kOwn>(m.C + (first + i) * kStates, place.part);
        if constexpr (kWalk == Walk::kSummary) elapsed += step.dt;
        y[i] = 0;
#pragma unroll
        for (int s = 0; s < kOwn; ++s) {
          h[s] = decay(step.dt * rate[s]) * h[s] + step.drive * B.value[s];
          if constexpr (kWalk == Walk::kOutput) y[i] += C.value[s] * h[s];
        }
      }
      if constexpr (kWalk == Walk::kOutput) {
        split_sums<kLanes>(y);
        constexpr int kMine = kGroup / kLanes;
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
          m.results[(first + place.part * kMine + i) * place.channels + place.column] = y[i];
        }
      }
    }
    if constexpr (kWalk == Walk::kOutput) {
      __syncthreads();
      const SumOverDirections<scalar_t> output(l, place, a.p.y);
      output.write([&](const auto& put) {
#pragma unroll 2
        for (int row = place.first_row; row < kStateTile; row += place.kRowStep) {
          const int token = tokens[row], at = row * place.channels + place.row_column;
          auto y = load_pack<acc, 2>(m.results + at, 0);
          const auto x = load_pack<scalar_t, 2>(u + at, 0);
#pragma unroll
          for (int v = 0; v < 2; ++v) y.value[v] += skip.value[v] * static_cast<acc>(x.value[v]);
          if (token >= 0) put(token, y);
        }
      });
    }
  });
  if constexpr (kWalk == Walk::kSummary) {
    acc decays[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) decays[i] = decay(elapsed * rate[i]);
    store_states<false>(decays, l, place, a.chunk_decay, true);
    store_states<false>(h, l, place, a.chunk_state, true);
  }
  if constexpr (kWalk == Walk::kOutput) {
    if (place.is_last_chunk(l)) store_states<false>(h, l, place, a.p.last_state, false);
  }
}

template <typename scalar_t, Walk kWalk, int kOwn, int kLanes>
void launch_states_walk_as(const StatesLaunch& l) {
  launch_states(states_walk_kernel<scalar_t, kWalk, kOwn, kLanes>, l, kLanes,
      states_forward_bytes<scalar_t>(l.threads, kOwn * kLanes, kOwn));
}

template <typename scalar_t, Walk kWalk>
void launch_states_walk_of(const StatesLaunch& l, int own) {
  if (own == kFewStates) return launch_states_walk_as<scalar_t, kWalk, kFewStates, kMostStates / kFewStates>(l);
  switch (state_lanes(l.scan.p.states, kOwnStates)) {
    case 1:
      return launch_states_walk_as<scalar_t, kWalk, kOwnStates, 1>(l);
    case 2:
      return launch_states_walk_as<scalar_t, kWalk, kOwnStates, 2>(l);
    default:
      return launch_states_walk_as<scalar_t, kWalk, kOwnStates, 4>(l);
  }
}

template <typename scalar_t>
void launch_states_walk(const StatesLaunch& l, Walk walk, int own) {
  switch (walk) {
    case Walk::kOutput:
      return launch_states_walk_of<scalar_t, Walk::kOutput>(l, own);
    case Walk::kSummary:
      return launch_states_walk_of<scalar_t, Walk::kSummary>(l, own);
    case Walk::kCheckpoints:
      return launch_states_walk_of<scalar_t, Walk::kCheckpoints>(l, own);
  }
}

}  // namespace ssm
