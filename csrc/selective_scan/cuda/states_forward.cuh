// The walk along the sequence with many states a channel: the forward pass, what a chunk does to the state, and the
// states from which the backward pass starts. dev/log has the experiments behind it.
#pragma once

#include "selective_scan/cuda/states_stream.cuh"

namespace ssm {

// With kChannels channels a thread, B, C and what all channels of a token share are read once for all of them, and
// their states are as many chains that do not wait for each other. Each channel is computed as if it were alone.
template <typename scalar_t, Walk kWalk, int kOwn, int kLanes, int kChannels>
__global__ void __launch_bounds__(states_threads(sizeof(scalar_t), kChannels))
    states_walk_kernel(const __grid_constant__ StatesLaunch l) {
  using acc = acc_t<scalar_t>;
  using Step = ForwardStep<acc>;
  extern __shared__ __align__(16) char memory[];
  const ScanLaunch& a = l.scan;
  using Place = StatesPlace<kOwn, kLanes, kChannels>;
  const Place place(l);
  if (place.batch >= a.p.batch) return;
  static_assert(kChannels == 1 || kWalk == Walk::kOutput);
  constexpr int kStates = Place::kStates;
  const StatesMemory<scalar_t, Step> m(place.channels, kStates, 1, false, 0, memory);
  acc rate[kChannels][kOwn], h[kChannels][kOwn], elapsed = 0;
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    load_A<false>(rate[c], l, place, c);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) rate[c][i] = decay_rate<scalar_t>(rate[c][i]);
    load_states<false>(h[c], l, place, a.phase == Phase::kApply ? a.state_before : nullptr, true, c);
  }
  const auto skip = parameters_of<acc>(l, l.first_state == 0 ? a.p.D : nullptr, place);

  TileStream<scalar_t, Step, 1, Place> stream(l, place, m, nullptr);
  stream.each(false, [&](int t, const int* tokens, const scalar_t* u) {
    constexpr int kGroup = kStateRun;  // tokens that are walked at once
#pragma unroll 1
    for (int first = 0; first < kStateTile; first += kGroup) {
      if constexpr (kWalk == Walk::kCheckpoints) {
        Pack<acc, kOwn> kept;
#pragma unroll
        for (int i = 0; i < kOwn; ++i) kept.value[i] = h[0][i];
        acc* to = static_cast<acc*>(l.checkpoints) + place.in_checkpoints(l, t, first / kStateRun);
        if (place.exists()) *reinterpret_cast<Pack<acc, kOwn>*>(to) = kept;
      }
      acc y[kChannels][kGroup];
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const auto steps = load_pack<Step, kChannels>(m.steps + (first + i) * place.channels + place.column, 0);
        const auto B = load_pack<acc, kOwn>(m.B + (first + i) * kStates, place.part);
        const auto C = load_pack<acc, kOwn>(m.C + (first + i) * kStates, place.part);
        if constexpr (kWalk == Walk::kSummary) elapsed += steps.value[0].dt;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
          const Step step = steps.value[c];
          y[c][i] = 0;
#pragma unroll
          for (int s = 0; s < kOwn; ++s) {
            h[c][s] = decay(step.dt * rate[c][s]) * h[c][s] + step.drive * B.value[s];
            if constexpr (kWalk == Walk::kOutput) y[c][i] += C.value[s] * h[c][s];
          }
        }
      }
      if constexpr (kWalk == Walk::kOutput) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) split_sums<kLanes>(y[c]);
        __syncwarp();  // all lanes of the channels have read their steps
        constexpr int kMine = kGroup / kLanes;
#pragma unroll
        for (int i = 0; i < kMine; ++i) {
          Step* sums = m.steps + (first + place.part * kMine + i) * place.channels + place.column;
#pragma unroll
          for (int c = 0; c < kChannels; ++c) sums[c].drive = y[c][i];
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
          const auto sums = load_pack<Step, 2>(m.steps + at, 0);
          const auto x = load_pack<scalar_t, 2>(u + at, 0);
          Two<acc> y;
#pragma unroll
          for (int v = 0; v < 2; ++v) {
            y.value[v] = sums.value[v].drive + skip.value[v] * static_cast<acc>(x.value[v]);
          }
          if (token >= 0) put(token, y);
        }
      });
    }
  });
  if constexpr (kWalk == Walk::kSummary) {
    acc decays[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) decays[i] = decay(elapsed * rate[0][i]);
    store_states<false>(decays, l, place, a.chunk_decay, true);
    store_states<false>(h[0], l, place, a.chunk_state, true);
  }
  if constexpr (kWalk == Walk::kOutput) {
    if (!place.is_last_chunk(l)) return;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) store_states<false>(h[c], l, place, a.p.last_state, false, c);
  }
}

template <typename scalar_t, Walk kWalk, int kOwn, int kLanes, int kChannels>
void launch_states_walk_as(const StatesLaunch& l) {
  const int channels = l.threads / kLanes * kChannels;
  launch_states(states_walk_kernel<scalar_t, kWalk, kOwn, kLanes, kChannels>, l, channels,
      states_forward_bytes<scalar_t>(channels, kOwn * kLanes));
}

template <typename scalar_t, Walk kWalk, int kChannels>
void launch_states_walk_by_lanes(const StatesLaunch& l) {
  switch (state_lanes(l.scan.p.states, kOwnStates)) {
    case 1:
      return launch_states_walk_as<scalar_t, kWalk, kOwnStates, 1, kChannels>(l);
    case 2:
      return launch_states_walk_as<scalar_t, kWalk, kOwnStates, 2, kChannels>(l);
    default:
      return launch_states_walk_as<scalar_t, kWalk, kOwnStates, 4, kChannels>(l);
  }
}

template <typename scalar_t, Walk kWalk>
void launch_states_walk_of(const StatesLaunch& l) {
  if (l.own == kFewStates) return launch_states_walk_as<scalar_t, kWalk, kFewStates, kMostStates / kFewStates, 1>(l);
  launch_states_walk_by_lanes<scalar_t, kWalk, 1>(l);
}

template <typename scalar_t>
void launch_states_walk(const StatesLaunch& l, Walk walk) {
  switch (walk) {
    case Walk::kOutput:
      if (l.each > 1) return launch_states_walk_by_lanes<scalar_t, Walk::kOutput, kThreadChannels>(l);
      return launch_states_walk_of<scalar_t, Walk::kOutput>(l);
    case Walk::kSummary:
      return launch_states_walk_of<scalar_t, Walk::kSummary>(l);
    case Walk::kCheckpoints:
      return launch_states_walk_of<scalar_t, Walk::kCheckpoints>(l);
  }
}

}  // namespace ssm
