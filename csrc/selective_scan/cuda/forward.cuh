// The selective scan's forward kernel. dev/log has the experiments behind it.
#pragma once

#include "selective_scan/cuda/configure.cuh"
#include "selective_scan/cuda/copy.cuh"
#include "selective_scan/cuda/exchange.cuh"

namespace ssm {

// What a thread keeps of its positions until the carry is known: `own`, the output without the carry, and `share`, the
// factor by which the carry adds to the output, for each of the directions that share an exchange.
template <int kJoint, typename scalar_t>
struct Outputs {
  using acc = acc_t<scalar_t>;
  acc own[kTokens][kVector<scalar_t>], share[kJoint][kTokens][kVector<scalar_t>];

  // Walks one direction and state, from a state of 0, and adds to `own`. `decays` and `h` become the thread's summary.
  template <bool kReversed, bool kOneOrder>
  __device__ __forceinline__ void walk(acc (&share)[kTokens][kVector<scalar_t>],
      const acc (&dt)[kTokens][kVector<scalar_t>], const Wide<scalar_t>& A, const Wide<scalar_t>& skip,
      const scalar_t* u, const Weights<acc>* weights, const ThreadRows<kOneOrder>& rows, const Place& place,
      Wide<scalar_t>& decays, Wide<scalar_t>& h) {
#pragma unroll
    for (int v = 0; v < kVector<scalar_t>; ++v) {
      decays.value[v] = acc(1);
      h.value[v] = acc(0);
    }
    weights += place.row * kTokens;
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const int position = walked<kReversed>(i);
      const Wide<scalar_t> x = widened(u, rows[position], place.lane);
      const Weights<acc> w = weights[position];
#pragma unroll
      for (int v = 0; v < kVector<scalar_t>; ++v) {
        const acc step = dt[position][v], factor = decay(step * decay_rate<scalar_t>(A.value[v]));
        h.value[v] = factor * h.value[v] + step * x.value[v] * w.B;
        decays.value[v] *= factor;
        own[position][v] += skip.value[v] * x.value[v];
        own[position][v] += w.C * h.value[v];
        share[position][v] = w.C * decays.value[v];
      }
    }
  }

  __device__ __forceinline__ void add(const acc (&share)[kTokens][kVector<scalar_t>], const Wide<scalar_t>& incoming) {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
#pragma unroll
      for (int v = 0; v < kVector<scalar_t>; ++v) own[i][v] += share[i][v] * incoming.value[v];
    }
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
#pragma unroll
      for (int v = 0; v < kVector<scalar_t>; ++v) own[i][v] = acc(0);
    }
  }

  // If each direction has its own order, the sum over directions is kept in shared memory, by token. It is zero before
  // the first direction; the last one takes the whole sum and leaves zeros.
  __device__ __forceinline__ void sum_over_directions(acc* tile, const ThreadRows<false>& rows, int lane, bool last) {
    auto* sums = reinterpret_cast<Wide<scalar_t>*>(tile);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const bool exists = rows.token(i) >= 0;
      Wide<scalar_t>& sum = sums[rows[i] * kLanes + lane];
      Wide<scalar_t> next = sum;
#pragma unroll
      for (int v = 0; v < kVector<scalar_t>; ++v) {
        own[i][v] += next.value[v];
        next.value[v] = last ? acc(0) : own[i][v];
      }
      if (exists) sum = next;
    }
  }
};

// Which of kDirections directions from `k` on are reversed, a bit each.
template <int kDirections>
__device__ __forceinline__ unsigned reversed_bits(const ScanLaunch& a, int k) {
  unsigned bits = 0;
#pragma unroll
  for (int i = 0; i < kDirections; ++i) bits |= static_cast<unsigned>(is_reversed(a, k + i)) << i;
  return bits;
}

// kJoint directions share an exchange, so that the blocks of a cluster wait for each other only once for them.
template <bool kOneOrder, int kJoint, typename scalar_t>
__global__ void __launch_bounds__(kMaxThreads, forward_min_blocks(sizeof(scalar_t), kJoint))
    forward_kernel(const __grid_constant__ ScanLaunch a) {
  using acc = acc_t<scalar_t>;
  constexpr int kWidth = kVector<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  const Place place(a);
  if (place.batch >= a.p.batch) return;  // all blocks of a cluster return, or none
  const ForwardMemory<kJoint, scalar_t> m(shape_of(a), memory);
  const int tile_elements = tile_size<scalar_t>(place.positions);

  stage_tokens(a, place, m.tokens, kOneOrder ? 1 : a.count);
  __syncthreads();
  const Copier<kOneOrder, scalar_t> copier(a, place, m.tokens);
  for (int i = 0; i < 2 * kJoint; ++i) {
    copier.fill_missing(place, m.delta + i * tile_elements, static_cast<scalar_t>(-INFINITY));
  }
  for (int i = 0; i < 2; ++i) copier.fill_missing(place, m.u + i * tile_elements, scalar_t(0));
  Stream<kOneOrder, kJoint, scalar_t> stream(a, place, copier, {m.parameters, m.delta, m.u, nullptr}, nullptr);
  stream.advance(a, place, 0, 0);
  stage_weights<kOneOrder, scalar_t>(a, place, m.weights, m.tokens);
  for (int i = threadIdx.x; !kOneOrder && i < tile_elements; i += blockDim.x) m.y[i] = acc(0);
  clear_rows(*m.exchange);
  const Slots<scalar_t> slots(a, place);
  wait_for_copies();
  start_exchanges(a, *m.exchange);
  stream.advance(a, place, 1, 1);

  int step = 0, scanning_warp = 0;
  unsigned walked_before = reversed_bits<kJoint>(a, place.direction(a, 0));
  for (int tile = place.first_tile(a); tile < place.end_tile(a); ++tile) {
    const int first_channel = tile * kColumns<scalar_t>, channel = first_channel + place.lane * kWidth;
    const scalar_t* u = m.u + (tile & 1) * tile_elements;
    Outputs<kJoint, scalar_t> y;
    y.clear();
    for (int j = 0; j < a.count; j += kJoint, ++step) {
      const int k = place.direction(a, j);
      const int* tokens = m.tokens + (kOneOrder ? 0 : j * place.positions);
      const ThreadRows<kOneOrder> rows(place, tokens);
      if (!kOneOrder) y.clear();
      // If the walk changes its direction, a thread's summary takes the place of a carry that another thread may not
      // have read yet.
      const unsigned walked_now = reversed_bits<kJoint>(a, k);
      if (walked_now != walked_before) __syncthreads();
      walked_before = walked_now;
      acc dt[kTokens][kWidth];
#pragma unroll
      for (int i = 0; i < kJoint; ++i) {
        const int slot = (step & 1) * kJoint + i;
        const Parameters<scalar_t>& parameters = m.parameters[slot];
        time_steps(dt, a, place, m.delta + slot * tile_elements, rows, parameters.bias);
        const auto skip = load_pack<acc, kWidth>(parameters.D, place.lane);
        const auto A = load_pack<acc, kWidth>(parameters.A, place.lane);
        const Weights<acc>* weights = m.weights + (j + i) * place.positions;
        const bool reversed = is_reversed(a, k + i);
        Wide<scalar_t> decays, h;
        if (reversed) {
          y.template walk<true>(y.share[i], dt, A, skip, u, weights, rows, place, decays, h);
        } else {
          y.template walk<false>(y.share[i], dt, A, skip, u, weights, rows, place, decays, h);
        }
        put_pairs(*m.exchange, i, slots.of(reversed), place.lane, decays, h);
      }
      wait_for_copies();
      __syncthreads();
#pragma unroll 1
      for (int side = 0, warp = scanning_warp; side < kJoint; ++side, warp = next_warp(warp)) {
        if (place.warp == warp) scan_rows<false>(a, place, *m.exchange, step, side, k, first_channel, nullptr);
      }
      stream.advance(a, place, step & 1, step & 1);
      __syncthreads();
      scanning_warp = next_warp(scanning_warp);
#pragma unroll
      for (int i = 0; i < kJoint; ++i) {
        y.add(y.share[i], get_carry(*m.exchange, i, slots.of(is_reversed(a, k + i)), place.lane));
      }
      if constexpr (!kOneOrder) {
        y.sum_over_directions(m.y, rows, place.lane, j + 1 == a.count);
      }
      if (a.phase == Phase::kSummarise || j + kJoint < a.count) continue;
      store_result(
          a, place, static_cast<scalar_t*>(a.p.y), channel, rows, [&](int i) { return as_wide<scalar_t>(y.own[i]); });
    }
  }
}

template <bool kOneOrder, int kJoint, typename scalar_t>
void launch_forward_as(const ScanLaunch& a) {
  launch_blocks(forward_kernel<kOneOrder, kJoint, scalar_t>, a, forward_bytes<scalar_t>(shape_of(a)));
}

template <typename scalar_t>
void launch_forward(const ScanLaunch& a) {
  if (!a.one_order) {
    launch_forward_as<false, 1, scalar_t>(a);
  } else {
    shares_exchange(shape_of(a)) ? launch_forward_as<true, 2, scalar_t>(a) : launch_forward_as<true, 1, scalar_t>(a);
  }
}

}  // namespace ssm
