// What the forward and the backward kernel share: which thread computes what, and how values come from and go to
// memory.
#pragma once

#include <type_traits>

#include "common/cuda/math.cuh"
#include "common/pack.h"
#include "selective_scan/cuda/launch.h"
#include "selective_scan/cuda/memory.h"

namespace ssm {

template <typename scalar_t>
using Wide = Pack<acc_t<scalar_t>, kVector<scalar_t>>;
template <typename scalar_t>
using Narrow = Pack<scalar_t, kVector<scalar_t>>;

// base + token · row_bytes in one instruction.
__device__ __forceinline__ const char* row_address(const void* base, int token, int row_bytes) {
  int64_t address;
  asm("mad.wide.s32 %0, %1, %2, %3;"
      : "=l"(address)
      : "r"(token), "r"(row_bytes), "l"(reinterpret_cast<int64_t>(base)));
  return reinterpret_cast<const char*>(address);
}

// Which part is a thread's: one row of the tiles that its block takes in turn, in one chunk of the sequence of one
// sample and group.
struct Place {
  int64_t batch;
  int group, chunk, split, lane, row, warp, positions;

  __device__ explicit Place(const ScanLaunch& a) {
    split = static_cast<int>(blockIdx.x / a.chunks);
    chunk = static_cast<int>(blockIdx.x) - split * a.chunks;
    const unsigned own = blockIdx.y + blockIdx.z * kMaxGridY, groups = static_cast<unsigned>(a.p.groups);
    batch = groups == 1 ? own : own / groups;
    group = static_cast<int>(own - static_cast<unsigned>(batch) * groups);
    lane = threadIdx.x % kLanes;
    row = threadIdx.x / kLanes;
    warp = threadIdx.x / 32;
    positions = a.rows * kTokens;
  }

  __device__ int first_tile(const ScanLaunch& a) const { return split * a.tiles_each; }
  __device__ int end_tile(const ScanLaunch& a) const { return min(a.tiles, (split + 1) * a.tiles_each); }
  __device__ int direction(const ScanLaunch& a, int j) const {
    return group * static_cast<int>(a.p.inner) + a.first + j;
  }
  __device__ int64_t sequence(const ScanLaunch& a, int k) const { return batch * a.p.groups * a.p.inner + k; }
  // Index of [batch, K, 1, chunks, D].
  __device__ int64_t in_workspace(const ScanLaunch& a, int k, int channel) const {
    return (sequence(a, k) * a.chunks + chunk) * a.p.channels + channel;
  }
};

// The next warp of the block, wrapping around.
__device__ __forceinline__ int next_warp(int warp) {
  return (warp + 1) * 32 == static_cast<int>(blockDim.x) ? 0 : warp + 1;
}

__device__ __forceinline__ bool is_reversed(const ScanLaunch& a, int k) {
  return a.reverse[k >> 5] >> (k & 31) & 1;
}

// A reversed direction walks the same positions from their end.
template <bool kReversed>
__device__ __forceinline__ constexpr int walked(int i) {
  return kReversed ? kTokens - 1 - i : i;
}

// Writes the token at each position of this block, for each order that the launch follows. Positions without a token
// get -1 or, if tiles are kept by token, the row that stands for no token. A value out of range counts as no token: it
// cannot be reported without a synchronisation, and it must not be followed.
__device__ __forceinline__ void stage_tokens(const ScanLaunch& a, const Place& place, int* tokens, int orders) {
  const int own = threadIdx.x;
  if (own >= place.positions) return;
  const int64_t position = static_cast<int64_t>(place.chunk) * place.positions + own;
  for (int j = 0; j < orders; ++j) {
    int64_t token = position;
    if (a.p.order != nullptr && position < a.p.length) {
      const Strides& s = a.p.order_stride;
      token = a.p.order[place.batch * s.batch + place.direction(a, j) * s.group + position * s.token];
    }
    const int missing = a.one_order ? -1 : place.positions;
    tokens[j * place.positions + own] = token >= 0 && token < a.p.length ? static_cast<int>(token) : missing;
  }
}

__device__ __forceinline__ bool is_token(const ScanLaunch& a, int token) {
  return static_cast<unsigned>(token) < static_cast<unsigned>(a.p.length);
}

// B and C of the position that this thread fetches for the block. There are at least as many threads as positions.
template <typename scalar_t>
__device__ __forceinline__ Weights<acc_t<scalar_t>> load_weights(
    const ScanLaunch& a, const Place& place, const int* tokens, int k) {
  using acc = acc_t<scalar_t>;
  const Strides &b = a.p.B_stride, &c = a.p.C_stride;
  const auto* B = static_cast<const scalar_t*>(a.p.B) + place.batch * b.batch + k * b.group;
  const auto* C = static_cast<const scalar_t*>(a.p.C) + place.batch * c.batch + k * c.group;
  const int token = static_cast<int>(threadIdx.x) < place.positions ? tokens[threadIdx.x] : -1;
  if (!is_token(a, token)) return {acc(0), acc(0)};
  return {static_cast<acc>(B[static_cast<int64_t>(token) * static_cast<int>(b.token)]) * kUnit<scalar_t>,
      static_cast<acc>(C[static_cast<int64_t>(token) * static_cast<int>(c.token)])};
}

template <typename acc>
__device__ __forceinline__ void store_weights(Weights<acc>* shared, const Weights<acc>& weights, const Place& place) {
  if (static_cast<int>(threadIdx.x) < place.positions) shared[threadIdx.x] = weights;
}

// Copies B and C of all directions to shared memory.
template <bool kOneOrder, typename scalar_t>
__device__ __forceinline__ void stage_weights(
    const ScanLaunch& a, const Place& place, Weights<acc_t<scalar_t>>* weights, const int* all_tokens) {
  for (int j = 0; j < a.count; ++j) {
    const int* tokens = all_tokens + (kOneOrder ? 0 : j * place.positions);
    if (static_cast<int>(threadIdx.x) >= place.positions) continue;
    weights[j * place.positions + threadIdx.x] = load_weights<scalar_t>(a, place, tokens, place.direction(a, j));
  }
}

// The rows of a tile at the thread's positions. Tiles are kept by position if all directions follow one order. If each
// has its own, one block holds the whole sequence and tiles are kept by token. Row `positions` stands for no token.
template <bool kOneOrder>
class ThreadRows {
 public:
  // `tokens` are those of the block's positions.
  __device__ __forceinline__ ThreadRows(const Place& place, const int* tokens)
      : first_(place.row * kTokens),
        positions_(place.positions),
        tokens_(tokens + first_) {}
  __device__ __forceinline__ int operator[](int i) const { return kOneOrder ? first_ + i : tokens_[i]; }
  // -1 where there is none.
  __device__ __forceinline__ int token(int i) const { return kOneOrder || tokens_[i] < positions_ ? tokens_[i] : -1; }

 private:
  int first_, positions_;
  const int* tokens_;
};

template <typename scalar_t>
__device__ __forceinline__ Wide<scalar_t> widened(const scalar_t* tile, int row, int lane) {
  Wide<scalar_t> wide;
  if constexpr (std::is_same_v<scalar_t, c10::BFloat16>) {
    // A bfloat16 is the upper half of a float, so that each half of the word takes one instruction.
    const unsigned word = reinterpret_cast<const unsigned*>(tile)[row * kLanes + lane];
    wide.value[0] = __uint_as_float(word << 16);
    wide.value[1] = __uint_as_float(word & 0xffff0000u);
  } else {
    const auto narrow = reinterpret_cast<const Narrow<scalar_t>*>(tile)[row * kLanes + lane];
#pragma unroll
    for (int v = 0; v < kVector<scalar_t>; ++v) wide.value[v] = static_cast<acc_t<scalar_t>>(narrow.value[v]);
  }
  return wide;
}

template <typename acc, int kWidth>
__device__ __forceinline__ Pack<acc, kWidth> load_pack(const acc* row, int lane) {
  return reinterpret_cast<const Pack<acc, kWidth>*>(row)[lane];
}

template <typename scalar_t>
__device__ __forceinline__ Wide<scalar_t> as_wide(const acc_t<scalar_t> (&values)[kVector<scalar_t>]) {
  Wide<scalar_t> wide;
#pragma unroll
  for (int v = 0; v < kVector<scalar_t>; ++v) wide.value[v] = values[v];
  return wide;
}

// Δ at the thread's positions. Where there is no token it is 0, which changes no state: such rows hold -inf, whose
// softplus is 0.
template <bool kOneOrder, typename scalar_t>
__device__ __forceinline__ void time_steps(acc_t<scalar_t> (&dt)[kTokens][kVector<scalar_t>], const ScanLaunch& a,
    const Place& place, const scalar_t* tile, const ThreadRows<kOneOrder>& rows, const acc_t<scalar_t>* biases) {
  using acc = acc_t<scalar_t>;
  auto bias = load_pack<acc, kVector<scalar_t>>(biases, place.lane);
#pragma unroll
  for (int v = 0; v < kVector<scalar_t>; ++v) bias.value[v] *= acc(1) / kUnit<scalar_t>;
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    const Wide<scalar_t> raw = widened(tile, rows[i], place.lane);
#pragma unroll
    for (int v = 0; v < kVector<scalar_t>; ++v) dt[i][v] = biased<scalar_t>(raw.value[v], bias.value[v]);
  }
  if (a.p.delta_softplus) {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
#pragma unroll
      for (int v = 0; v < kVector<scalar_t>; ++v) dt[i][v] = softplus<scalar_t>(dt[i][v]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
#pragma unroll
      for (int v = 0; v < kVector<scalar_t>; ++v) dt[i][v] = rows.token(i) >= 0 ? dt[i][v] : acc(0);
    }
  }
}

// Writes the thread's channels of a token to memory. `row` points at those of token 0.
template <bool kAligned, typename scalar_t>
__device__ __forceinline__ void store_token(
    const ScanLaunch& a, scalar_t* row, int token, int channel, const acc_t<scalar_t> (&value)[kVector<scalar_t>]) {
  const int row_bytes = static_cast<int>(a.p.channels * sizeof(scalar_t));
  char* to = const_cast<char*>(row_address(row, token, row_bytes));
  if constexpr (kAligned) {
    Narrow<scalar_t> narrow;
#pragma unroll
    for (int v = 0; v < kVector<scalar_t>; ++v) narrow.value[v] = static_cast<scalar_t>(value[v]);
    if (token >= 0 && channel < a.p.channels) *reinterpret_cast<Narrow<scalar_t>*>(to) = narrow;
  } else {
#pragma unroll
    for (int v = 0; v < kVector<scalar_t>; ++v) {
      if (token >= 0 && channel + v < a.p.channels) {
        reinterpret_cast<scalar_t*>(to)[v] = static_cast<scalar_t>(value[v]);
      }
    }
  }
}

// Writes all of the thread's tokens. value(i) gives the channels of position i.
template <bool kOneOrder, typename scalar_t, typename Value>
__device__ __forceinline__ void store_tokens(
    const ScanLaunch& a, scalar_t* row, int channel, const ThreadRows<kOneOrder>& rows, const Value& value) {
  if (a.aligned) {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) store_token<true>(a, row, rows.token(i), channel, value(i).value);
  } else {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) store_token<false>(a, row, rows.token(i), channel, value(i).value);
  }
}

// Writes a result that is a sum over directions, to which other launches may add.
template <bool kOneOrder, typename scalar_t, typename Value>
__device__ __forceinline__ void store_result(const ScanLaunch& a, const Place& place, scalar_t* result, int channel,
    const ThreadRows<kOneOrder>& rows, const Value& value) {
  using acc = acc_t<scalar_t>;
  const int64_t first = (place.batch * a.p.groups + place.group) * a.p.length * a.p.channels + channel;
  if (a.sum == nullptr) return store_tokens(a, result + first, channel, rows, value);
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    const int token = rows.token(i);
    if (token < 0) continue;
    Wide<scalar_t> total = value(i);
    acc* sum = static_cast<acc*>(a.sum) + first + token * a.p.channels;
#pragma unroll
    for (int v = 0; v < kVector<scalar_t>; ++v) {
      if (channel + v >= a.p.channels) continue;
      if (a.add) total.value[v] += sum[v];
      if (!a.finish) sum[v] = total.value[v];
    }
    if (a.finish) store_token<false>(a, result + first, token, channel, total.value);
  }
}

}  // namespace ssm
