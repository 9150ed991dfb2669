// The selective scan's backward kernel. One exchange gives the states, computed again from the left, and their
// gradients, from the right; then every gradient follows. What is carried from the right is μ(s) = a(s) · λ(s), the
// gradient λ times the decay a, so that it decays as the state does.
#pragma once

#include "selective_scan/cuda/configure.cuh"
#include "selective_scan/cuda/copy.cuh"
#include "selective_scan/cuda/exchange.cuh"

namespace ssm {

// Sums the gradients of B and C over the lanes of a row, for every position of the thread. Each step halves the values
// that a lane holds: it gives one half to its neighbour and gets the neighbour's part of the other.
struct RowSum {
  static_assert(kLanes == 8 && kTokens <= 8 && kSumsOfLane == 2, "three halvings of two times eight sums leave two");
  int lane;

  __device__ bool of_C() const { return lane & 1; }
  __device__ int first_position() const { return (lane & 2) * 2 + (lane & 4) / 2; }

  template <typename acc>
  __device__ __forceinline__ acc halve(int offset, acc low, acc high) const {
    return exchange_halves((lane & offset) != 0, offset, low, high);
  }
  // `one` holds halve(1, B's, C's) of each position.
  template <typename acc>
  __device__ __forceinline__ void finish(const acc (&one)[kTokens], acc (&sum)[kSumsOfLane]) const {
    acc two[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) two[i] = halve(2, one[i], i + 4 < kTokens ? one[i + 4] : acc(0));
#pragma unroll
    for (int i = 0; i < kSumsOfLane; ++i) sum[i] = halve(4, two[i], two[i + 2]);
  }
};

// Writes the sums that a lane holds to the block's row of the partial gradients, where no other thread writes them.
template <typename scalar_t>
__device__ __forceinline__ void write_weights(const ScanLaunch& a, const SelectiveScanGradients& g, const Place& place,
    const int* tokens, int k, acc_t<scalar_t> (&sum)[kSumsOfLane]) {
  using acc = acc_t<scalar_t>;
  const RowSum own{place.lane};
  const int64_t row = static_cast<int64_t>(place.split) * a.p.batch * a.p.groups * a.p.inner + place.sequence(a, k);
  acc* to = static_cast<acc*>(own.of_C() ? g.grad_C : g.grad_B) + row * a.p.length;
#pragma unroll
  for (int i = 0; i < kSumsOfLane; ++i) {
    const int position = own.first_position() + i;
    if (position >= kTokens) continue;
    const int token = tokens[place.row * kTokens + position];
    if (!is_token(a, token)) continue;
    to[token] = sum[i] * (own.of_C() ? acc(1) : kUnit<scalar_t>);
  }
}

// Called by a warp after a barrier: sums one parameter's gradients over the block's rows and writes them to the block's
// row of the partial gradients.
template <typename scalar_t>
__device__ __forceinline__ void write_parameter(const ScanLaunch& a, const SelectiveScanGradients& g,
    const Place& place, int which, const acc_t<scalar_t> (*sums)[kColumns<scalar_t>], int k, int first_channel) {
  using acc = acc_t<scalar_t>;
  const int lane = threadIdx.x % 32, column = lane % kColumns<scalar_t>, segment = lane / kColumns<scalar_t>;
  acc total = 0;
#pragma unroll kTogether
  for (int r = segment; r < a.rows; r += kSegments<scalar_t>) total += sums[which * kMaxRows + r][column];
  total = sum_over_columns(total, kColumns<scalar_t>);
  const int channel = first_channel + column;
  if (segment > 0 || channel >= a.p.channels) return;
  const int64_t K = a.p.groups * a.p.inner;
  const int64_t row = ((place.chunk * a.p.batch + place.batch) * K + k) * a.p.channels + channel;
  if (which == kGradA) static_cast<acc*>(g.grad_A)[row] = total * kUnit<scalar_t>;
  if (which == kGradD) static_cast<acc*>(g.grad_D)[row] = total;
  if (which == kGradBias) static_cast<acc*>(g.grad_delta_bias)[row] = total;
}

// One thread's positions of one direction, and what it keeps of them between its two walks.
template <bool kOneOrder, typename scalar_t>
struct Positions {
  using acc = acc_t<scalar_t>;
  using Tile = acc[kTokens][kVector<scalar_t>];
  const Place& place;
  const ThreadRows<kOneOrder>& rows;
  const scalar_t *u, *grad_y;
  const Weights<acc>* weights;
  const Wide<scalar_t>& rate;
  Tile &dt, &before, &reach;  // Δ; the decayed state, from a carry of 0; the factor by which the carry reaches the step

  // The summaries of the positions: for h, walked to the right, and for μ, walked to the left, which is
  // Σ_i (Π_{m ≤ i} a_m) C_i g_i.
  template <bool kReversed>
  __device__ __forceinline__ void summarise(Wide<scalar_t>& decays, Wide<scalar_t>& h, Wide<scalar_t>& mu) const {
    decays = h = mu = {};
#pragma unroll
    for (int v = 0; v < kVector<scalar_t>; ++v) decays.value[v] = acc(1);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const int position = walked<kReversed>(i);
      const auto x = widened(u, rows[position], place.lane), gy = widened(grad_y, rows[position], place.lane);
      const Weights<acc> w = weights[place.row * kTokens + position];
#pragma unroll
      for (int v = 0; v < kVector<scalar_t>; ++v) {
        const acc step = dt[position][v], factor = decay(step * rate.value[v]);
        before[position][v] = factor * h.value[v];
        h.value[v] = before[position][v] + step * x.value[v] * w.B;
        decays.value[v] *= factor;
        reach[position][v] = decays.value[v];
        mu.value[v] += decays.value[v] * (gy.value[v] * w.C);
      }
    }
  }

  // The walk back. `mu` and `h` are the carries. `before` becomes the gradient of Δ. The gradients of B and C go to
  // `weight_sums`; those of u are added to the tile `grad_u`.
  template <bool kReversed>
  __device__ __forceinline__ void differentiate(const Wide<scalar_t>& A, const Wide<scalar_t>& skip,
      const Wide<scalar_t>& h, Wide<scalar_t>& mu, Wide<scalar_t>& grad_A, Wide<scalar_t>& grad_D,
      acc (&weight_sums)[kTokens], Wide<scalar_t>* grad_u) const {
#pragma unroll
    for (int i = kTokens - 1; i >= 0; --i) {
      const int position = walked<kReversed>(i);
      const auto x = widened(u, rows[position], place.lane), gy = widened(grad_y, rows[position], place.lane);
      const Weights<acc> w = weights[place.row * kTokens + position];
      acc for_B = 0, for_C = 0;
      Wide<scalar_t>& to_u = grad_u[rows[position] * kLanes + place.lane];
      Wide<scalar_t> out = to_u;
#pragma unroll
      for (int v = 0; v < kVector<scalar_t>; ++v) {
        const acc step = dt[position][v], g = gy.value[v];
        const acc lambda = w.C * g + mu.value[v];
        const acc decayed = reach[position][v] * h.value[v] + before[position][v];
        const acc exponent = lambda * decayed, drive = step * x.value[v], weighted = lambda * w.B;
        mu.value[v] = decay(step * rate.value[v]) * lambda;
        for_B += lambda * drive;
        for_C += g * (drive * w.B + decayed);
        out.value[v] += skip.value[v] * g;
        out.value[v] += weighted * step;
        grad_D.value[v] += g * x.value[v];
        grad_A.value[v] += exponent * step;
        before[position][v] = exponent * (A.value[v] * kUnit<scalar_t>)+weighted * x.value[v];
      }
      weight_sums[position] = RowSum{place.lane}.halve(1, for_B, for_C);
      if (kOneOrder || rows.token(position) >= 0) to_u = out;
    }
  }
};

// Turns the gradient of Δ into that of delta, through softplus, and sums it over the tokens.
template <bool kOneOrder, typename scalar_t>
__device__ __forceinline__ void through_softplus(const ScanLaunch& a, const ThreadRows<kOneOrder>& rows,
    acc_t<scalar_t> (&gradient)[kTokens][kVector<scalar_t>], const acc_t<scalar_t> (&dt)[kTokens][kVector<scalar_t>],
    Wide<scalar_t>& sum) {
  using acc = acc_t<scalar_t>;
  // Where there is no token, Δ is 0, and so is its slope.
  if (a.p.delta_softplus) {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
#pragma unroll
      for (int v = 0; v < kVector<scalar_t>; ++v) gradient[i][v] *= softplus_slope<scalar_t>(dt[i][v]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const acc slope = rows.token(i) >= 0 ? acc(1) / kUnit<scalar_t> : acc(0);
#pragma unroll
      for (int v = 0; v < kVector<scalar_t>; ++v) gradient[i][v] *= slope;
    }
  }
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
#pragma unroll
    for (int v = 0; v < kVector<scalar_t>; ++v) sum.value[v] += gradient[i][v];
  }
}

template <bool kOneOrder, typename scalar_t>
__global__ void __launch_bounds__(kMaxThreads, backward_min_blocks(sizeof(scalar_t)))
    backward_kernel(const __grid_constant__ ScanLaunch a, const __grid_constant__ SelectiveScanGradients g) {
  using acc = acc_t<scalar_t>;
  constexpr int kWidth = kVector<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  const Place place(a);
  if (place.batch >= a.p.batch) return;  // all blocks of a cluster return, or none
  const BackwardMemory<scalar_t> m(shape_of(a), memory);
  const int warps = blockDim.x / 32;
  const int64_t length = a.p.length;

  stage_tokens(a, place, m.tokens, kOneOrder ? 1 : a.count);
  __syncthreads();
  const Copier<kOneOrder, scalar_t> copier(a, place, m.tokens);
  copier.fill_missing(place, m.delta, static_cast<scalar_t>(-INFINITY));
  for (int i = 0; i < 2; ++i) {
    copier.fill_missing(place, m.u + i * tile_size<scalar_t>(place.positions), scalar_t(0));
    copier.fill_missing(place, m.grad_y + i * tile_size<scalar_t>(place.positions), scalar_t(0));
  }
  for (int i = threadIdx.x; i < tile_size<scalar_t>(place.positions); i += blockDim.x) m.grad_u[i] = acc(0);
  Stream<kOneOrder, 1, scalar_t> stream(a, place, copier, {m.parameters, m.delta, m.u, m.grad_y}, g.grad_y);
  stream.advance(a, place, 0, 0);
  stage_weights<kOneOrder, scalar_t>(a, place, m.weights, m.tokens);
  clear_rows(*m.exchange);
  const Slots<scalar_t> slots(a, place);
  wait_for_copies();
  start_exchanges(a, *m.exchange);

  int step = 0, scanning_warp = 0;
  for (int tile = place.first_tile(a); tile < place.end_tile(a); ++tile) {
    const int first_channel = tile * kColumns<scalar_t>, channel = first_channel + place.lane * kWidth;
    const int tile_at = (tile & 1) * tile_size<scalar_t>(place.positions);
    for (int j = 0; j < a.count; ++j, ++step) {
      const int k = place.direction(a, j);
      const int* tokens = m.tokens + (kOneOrder ? 0 : j * place.positions);
      const ThreadRows<kOneOrder> rows(place, tokens);
      const Parameters<scalar_t>& parameters = m.parameters[step & 1];
      acc dt[kTokens][kWidth];
      time_steps(dt, a, place, m.delta, rows, parameters.bias);
      const auto skip = load_pack<acc, kWidth>(parameters.D, place.lane);
      const auto A = load_pack<acc, kWidth>(parameters.A, place.lane);
      Wide<scalar_t> rate, decays, h, mu, grad_A = {}, grad_D = {}, grad_bias = {};
#pragma unroll
      for (int v = 0; v < kWidth; ++v) rate.value[v] = decay_rate<scalar_t>(A.value[v]);
      acc before[kTokens][kWidth], reach[kTokens][kWidth];
      const Positions<kOneOrder, scalar_t> positions{
          place, rows, m.u + tile_at, m.grad_y + tile_at, m.weights + j * place.positions, rate, dt, before, reach};
      const bool reversed = is_reversed(a, k);
      if (reversed) {
        positions.template summarise<true>(decays, h, mu);
      } else {
        positions.template summarise<false>(decays, h, mu);
      }
      put_pairs(*m.exchange, 0, slots.of(reversed), place.lane, decays, h);
      put_pairs(*m.exchange, 1, slots.of(!reversed), place.lane, decays, mu);
      __syncthreads();
#pragma unroll 1
      for (int side = 0, warp = scanning_warp; side < 2; ++side, warp = next_warp(warp)) {
        if (place.warp == warp) scan_rows<true>(a, place, *m.exchange, step, side, k, first_channel, g.grad_last_state);
      }
      stream.advance(a, place, step + 1 & 1, 0);
      __syncthreads();
      scanning_warp = next_warp(scanning_warp);
      if (a.phase != Phase::kSummarise) {
        h = get_carry(*m.exchange, 0, slots.of(reversed), place.lane);
        mu = get_carry(*m.exchange, 1, slots.of(!reversed), place.lane);
        // Decays are computed again: if they were kept, a third fewer blocks would fit.
#pragma unroll
        for (int v = 0; v < kWidth; ++v) forget(rate.value[v]);
        acc weight_sums[kTokens], sum[kSumsOfLane];
        auto* grad_u = reinterpret_cast<Wide<scalar_t>*>(m.grad_u);
        if (reversed) {
          positions.template differentiate<true>(A, skip, h, mu, grad_A, grad_D, weight_sums, grad_u);
        } else {
          positions.template differentiate<false>(A, skip, h, mu, grad_A, grad_D, weight_sums, grad_u);
        }
        scalar_t* row = static_cast<scalar_t*>(g.grad_delta) + place.sequence(a, k) * length * a.p.channels + channel;
        through_softplus<kOneOrder, scalar_t>(a, rows, before, dt, grad_bias);
        store_tokens(a, row, channel, rows, [&](int i) { return as_wide<scalar_t>(before[i]); });
        if (j + 1 == a.count) {
          store_result(a, place, static_cast<scalar_t*>(g.grad_u), channel, rows, [&](int i) {
            auto& sum = grad_u[rows[i] * kLanes + place.lane];
            const Wide<scalar_t> total = sum;
            // Zeros for the next tile. All positions without a token share a row, which stays as it is.
            if (kOneOrder || rows.token(i) >= 0) sum = {};
            return total;
          });
        }
        RowSum{place.lane}.finish(weight_sums, sum);
        const bool first_tile = tile == place.first_tile(a);
        acc* kept = m.weight_sums + j * kSumsOfLane * blockDim.x + threadIdx.x;
#pragma unroll
        for (int i = 0; i < kSumsOfLane; ++i) {
          if (!first_tile) sum[i] += kept[i * blockDim.x];
          kept[i * blockDim.x] = sum[i];
        }
        if (tile + 1 == place.end_tile(a)) write_weights<scalar_t>(a, g, place, tokens, k, sum);
        reinterpret_cast<Wide<scalar_t>*>(m.sums[kGradA * kMaxRows + place.row])[place.lane] = grad_A;
        reinterpret_cast<Wide<scalar_t>*>(m.sums[kGradD * kMaxRows + place.row])[place.lane] = grad_D;
        reinterpret_cast<Wide<scalar_t>*>(m.sums[kGradBias * kMaxRows + place.row])[place.lane] = grad_bias;
      }
      wait_for_copies();
      __syncthreads();
      if (a.phase == Phase::kSummarise) continue;
      for (int i = place.warp; i < kParameterGradients; i += warps) {
        write_parameter<scalar_t>(a, g, place, i, m.sums, k, first_channel);
      }
    }
  }
}

template <bool kOneOrder, typename scalar_t>
void launch_backward_as(const ScanLaunch& a, const SelectiveScanGradients& g) {
  launch_blocks(backward_kernel<kOneOrder, scalar_t>, a, backward_bytes<scalar_t>(shape_of(a)), g);
}

template <typename scalar_t>
void launch_backward(const ScanLaunch& a, const SelectiveScanGradients& g) {
  a.one_order ? launch_backward_as<true, scalar_t>(a, g) : launch_backward_as<false, scalar_t>(a, g);
}

}  // namespace ssm
