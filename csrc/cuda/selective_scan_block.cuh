// What the forward and the backward kernel share: who computes what, and the ways in and out of memory.
#pragma once

#include "selective_scan_launch.h"
#include "selective_scan_math.cuh"

namespace ssm {

// One thread: channels `channel` … of one sample and group, row `sub` of the block, block `chunk` of the sequence.
template <int kVector>
struct Place {
  int64_t batch;
  int group, tile, channel, chunk, lane, sub, warp, positions;
  bool inside;  // whether its channels exist

  __device__ explicit Place(const ScanLaunch& a) {
    tile = static_cast<int>(blockIdx.x / a.chunks);
    chunk = static_cast<int>(blockIdx.x) - tile * a.chunks;
    const unsigned row = blockIdx.y + blockIdx.z * kMaxRowsY, groups = static_cast<unsigned>(a.p.groups);
    batch = groups == 1 ? row : row / groups;
    group = static_cast<int>(row - static_cast<unsigned>(batch) * groups);
    lane = threadIdx.x % kLanes;
    sub = threadIdx.x / kLanes;
    warp = threadIdx.x / 32;
    positions = a.subchunks * kTokens;
    channel = (tile * kLanes + lane) * kVector;
    inside = channel < a.p.channels;
    // The others repeat a channel that exists, and write nothing.
    if (!inside) channel = 0;
  }

  __device__ int direction(const ScanLaunch& a, int j) const {
    return group * static_cast<int>(a.p.inner) + a.first + j;
  }
  __device__ int64_t sequence(const ScanLaunch& a, int k) const { return batch * a.p.groups * a.p.inner + k; }
  // Index of [batch, K, N, chunks, D].
  __device__ int64_t in_workspace(const ScanLaunch& a, int k, int n) const {
    return ((sequence(a, k) * a.p.states + n) * a.chunks + chunk) * a.p.channels + channel;
  }
  // The first of the kTokens positions that this thread walks. In a reversed direction it walks them downwards, and the
  // threads divide the block from its end: the next thread always walks on where this one stops.
  __device__ int base(bool reversed) const { return reversed ? positions - (sub + 1) * kTokens : sub * kTokens; }
};

__device__ __forceinline__ bool is_reversed(const ScanLaunch& a, int k) {
  return a.reverse[k >> 5] >> (k & 31) & 1;
}

template <bool kReversed>
__device__ __forceinline__ constexpr int walked(int i) {
  return kReversed ? kTokens - 1 - i : i;
}

template <typename acc>
struct alignas(2 * sizeof(acc)) Weights {
  acc B, C;
};

// The token at each position of this block, for each order that the launch follows; -1 where there is none. A value out
// of range is treated as no token: there is no way to report it without a synchronisation, but it must not be followed.
// Returns whether this thread's positions all have one.
template <int kVector>
__device__ bool stage_tokens(const ScanLaunch& a, const Place<kVector>& place, int* tokens, int orders) {
  bool full = true;
  const int own = threadIdx.x;
  if (own < place.positions) {
    const int64_t position = static_cast<int64_t>(place.chunk) * place.positions + own;
    for (int j = 0; j < orders; ++j) {
      int64_t token = position;
      if (a.p.order != nullptr && position < a.p.length) {
        const Strides& s = a.p.order_stride;
        token = a.p.order[place.batch * s.batch + place.direction(a, j) * s.group + position * s.token];
      }
      const bool exists = token >= 0 && token < a.p.length;
      tokens[j * place.positions + own] = exists ? static_cast<int>(token) : -1;
      full = full && exists;
    }
  }
  return full;
}

// B and C of the position that this thread fetches for the block: there are at least as many threads as positions.
template <typename scalar_t, int kVector>
__device__ __forceinline__ Weights<acc_t<scalar_t>> load_weights(
    const ScanLaunch& a, const Place<kVector>& place, const int* tokens, int k, int n) {
  using acc = acc_t<scalar_t>;
  const Strides &b = a.p.B_stride, &c = a.p.C_stride;
  const auto* B = static_cast<const scalar_t*>(a.p.B) + place.batch * b.batch + k * b.group + n * b.last;
  const auto* C = static_cast<const scalar_t*>(a.p.C) + place.batch * c.batch + k * c.group + n * c.last;
  const int token = static_cast<int>(threadIdx.x) < place.positions ? tokens[threadIdx.x] : -1;
  if (token < 0) return {acc(0), acc(0)};
  return {static_cast<acc>(B[static_cast<int64_t>(token) * static_cast<int>(b.token)]),
      static_cast<acc>(C[static_cast<int64_t>(token) * static_cast<int>(c.token)])};
}

template <typename acc, int kVector>
__device__ __forceinline__ void store_weights(
    Weights<acc>* shared, const Weights<acc>& weights, const Place<kVector>& place) {
  if (static_cast<int>(threadIdx.x) < place.positions) shared[threadIdx.x] = weights;
}

template <typename scalar_t, int kVector>
__device__ __forceinline__ const char* thread_row(
    const void* base, const Strides& s, const Place<kVector>& place, int group) {
  return reinterpret_cast<const char*>(
      static_cast<const scalar_t*>(base) + place.batch * s.batch + group * s.group + place.channel);
}

// The thread's channels of a token; `row` points at those of token 0, strides fit 31 bits of bytes. A position without
// a token reads the first one's.
template <typename scalar_t, int kVector>
__device__ __forceinline__ Pack<scalar_t, kVector> load_vector(const char* row, int token, int stride) {
  return *reinterpret_cast<const Pack<scalar_t, kVector>*>(row + static_cast<int64_t>(max(token, 0)) * stride);
}

// The token of row `slot` of the tiles: its position's where all directions follow one order; and else, where one block
// holds the whole sequence, the tiles are in the tokens' own order.
template <bool kOneOrder>
__device__ __forceinline__ int slot_token(const ScanLaunch& a, const int* tokens, int slot) {
  return kOneOrder ? tokens[slot] : (slot < a.p.length ? slot : -1);
}

// The thread's own rows of a [batch, groups, L, D] into a tile of acc; 0 where there is no token or no channel.
template <bool kOneOrder, typename scalar_t, int kVector>
__device__ __forceinline__ void load_tile(const ScanLaunch& a, const Place<kVector>& place, acc_t<scalar_t>* tile,
    const char* row, int64_t stride, const int* tokens, bool full) {
  using acc = acc_t<scalar_t>;
  const bool all = full && place.inside;
  Pack<scalar_t, kVector> raw[kTokens];
  auto* rows = reinterpret_cast<Pack<acc, kVector>*>(tile) + place.sub * kTokens * kLanes + place.lane;
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    const int token = slot_token<kOneOrder>(a, tokens, place.sub * kTokens + i);
    raw[i] = load_vector<scalar_t, kVector>(row, token, static_cast<int>(stride * sizeof(scalar_t)));
    if (!all && (token < 0 || !place.inside)) raw[i] = {};
  }
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    Pack<acc, kVector> wide;
#pragma unroll
    for (int v = 0; v < kVector; ++v) wide.value[v] = static_cast<acc>(raw[i].value[v]);
    rows[i * kLanes] = wide;
  }
}

template <typename scalar_t, int kVector>
__device__ __forceinline__ void load_delta(Pack<scalar_t, kVector> (&raw)[kTokens], const ScanLaunch& a,
    const Place<kVector>& place, const int* tokens, int k) {
  const char* row = thread_row<scalar_t>(a.p.delta, a.p.delta_stride, place, k);
  const int stride = static_cast<int>(a.p.delta_stride.token * sizeof(scalar_t));
  tokens += place.base(is_reversed(a, k));
#pragma unroll
  for (int i = 0; i < kTokens; ++i) raw[i] = load_vector<scalar_t, kVector>(row, tokens[i], stride);
}

// Δ at the thread's positions, `tokens` being theirs; 0, which neither decays nor drives, where there is no token. Also
// returns the sum.
template <typename scalar_t, int kVector>
__device__ __forceinline__ void time_steps(acc_t<scalar_t> (&dt)[kTokens][kVector], acc_t<scalar_t> (&total)[kVector],
    const Pack<scalar_t, kVector> (&raw)[kTokens], const ScanLaunch& a, const Place<kVector>& place, const int* tokens,
    int k, bool full) {
  using acc = acc_t<scalar_t>;
  const acc* biases = static_cast<const acc*>(a.p.delta_bias);
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    const acc bias = biases != nullptr ? biases[k * a.p.channels + place.channel + v] : acc(0);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) dt[i][v] = static_cast<acc>(raw[i].value[v]) + bias;
    if (a.p.delta_softplus) {
#pragma unroll
      for (int i = 0; i < kTokens; ++i) dt[i][v] = softplus<scalar_t>(dt[i][v]);
    }
    if (!full) {
#pragma unroll
      for (int i = 0; i < kTokens; ++i) dt[i][v] = tokens[i] >= 0 ? dt[i][v] : acc(0);
    }
    total[v] = acc(0);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) total[v] += dt[i][v];
  }
}

template <typename scalar_t, typename acc, int kVector>
__device__ __forceinline__ Pack<scalar_t, kVector> narrowed(const Pack<acc, kVector>& wide) {
  Pack<scalar_t, kVector> narrow;
#pragma unroll
  for (int v = 0; v < kVector; ++v) narrow.value[v] = static_cast<scalar_t>(wide.value[v]);
  return narrow;
}

// A tile of sums to memory.
template <bool kOneOrder, typename scalar_t, int kVector>
__device__ __forceinline__ void write_result(
    const ScanLaunch& a, const Place<kVector>& place, const acc_t<scalar_t>* tile, const int* tokens, void* result) {
  using acc = acc_t<scalar_t>;
  if (!place.inside) return;
  const int64_t first = (place.batch * a.p.groups + place.group) * a.p.length * a.p.channels + place.channel;
  const auto* rows = reinterpret_cast<const Pack<acc, kVector>*>(tile) + place.sub * kTokens * kLanes + place.lane;
  if (a.sum == nullptr) {
    char* first_row = reinterpret_cast<char*>(static_cast<scalar_t*>(result) + first);
    const int stride = static_cast<int>(a.p.channels * sizeof(scalar_t));
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const int token = slot_token<kOneOrder>(a, tokens, place.sub * kTokens + i);
      const auto narrow = narrowed<scalar_t>(rows[i * kLanes]);
      if (token < 0) continue;
      *reinterpret_cast<Pack<scalar_t, kVector>*>(first_row + static_cast<int64_t>(token) * stride) = narrow;
    }
    return;
  }
#pragma unroll 1
  for (int i = 0; i < kTokens; ++i) {
    const int token = slot_token<kOneOrder>(a, tokens, place.sub * kTokens + i);
    if (token < 0) continue;
    const int64_t at = first + static_cast<int64_t>(token) * static_cast<int>(a.p.channels);
    auto value = rows[i * kLanes];
    if (a.add) {
      const auto before = *reinterpret_cast<const Pack<acc, kVector>*>(static_cast<const acc*>(a.sum) + at);
#pragma unroll
      for (int v = 0; v < kVector; ++v) value.value[v] += before.value[v];
    }
    if (!a.finish) {
      *reinterpret_cast<Pack<acc, kVector>*>(static_cast<acc*>(a.sum) + at) = value;
      continue;
    }
    *reinterpret_cast<Pack<scalar_t, kVector>*>(static_cast<scalar_t*>(result) + at) = narrowed<scalar_t>(value);
  }
}

}  // namespace ssm
