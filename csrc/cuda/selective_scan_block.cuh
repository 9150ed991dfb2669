// What the forward and the backward kernel share: who computes what, and the ways in and out of memory.
#pragma once

#include "selective_scan_launch.h"
#include "selective_scan_math.cuh"

namespace ssm {

// One thread: channels `channel` … of one sample and group, row `sub` of the block, block `chunk` of the sequence.
template <int kVector>
struct Place {
  int64_t batch, group, tile, channel;
  int chunk, lane, sub, warp, positions;
  bool inside;  // whether its channels exist

  __device__ explicit Place(const ScanLaunch& a) {
    int64_t index = blockIdx.x;
    const int64_t tiles = channel_tiles_of(a.p);
    chunk = static_cast<int>(index % a.chunks);
    index /= a.chunks;
    tile = index % tiles;
    index /= tiles;
    group = index % a.p.groups;
    batch = index / a.p.groups;
    lane = threadIdx.x % kLanes;
    sub = threadIdx.x / kLanes;
    warp = threadIdx.x / 32;
    positions = a.subchunks * kTokens;
    channel = (tile * kLanes + lane) * kVector;
    inside = channel < a.p.channels;
  }

  __device__ static int64_t channel_tiles_of(const SelectiveScanParams& p) {
    return (p.channels + kLanes * kVector - 1) / (kLanes * kVector);
  }
  __device__ int64_t direction(const ScanLaunch& a, int j) const { return group * a.p.inner + a.first + j; }
  __device__ int64_t sequence(const ScanLaunch& a, int64_t k) const { return batch * a.p.groups * a.p.inner + k; }
  // Index of [batch, K, N, chunks, D].
  __device__ int64_t in_workspace(const ScanLaunch& a, int64_t k, int64_t n) const {
    return ((sequence(a, k) * a.p.states + n) * a.chunks + chunk) * a.p.channels + channel;
  }
};

__device__ __forceinline__ bool is_reversed(const ScanLaunch& a, int64_t k) {
  return a.reverse[k >> 5] >> (k & 31) & 1;
}

// Where step i of a thread's walk lies in the block: steps go up along the order, or down where it is reversed.
struct Walk {
  int base, step;
  __device__ Walk(bool reversed, int sub, int positions)
      : base(reversed ? positions - 1 - sub * kTokens : sub * kTokens), step(reversed ? -1 : 1) {}
  __device__ __forceinline__ int operator[](int i) const { return base + i * step; }
};

template <typename acc>
struct alignas(2 * sizeof(acc)) Weights {
  acc B, C;
};

// The token at each position of this block, for each order that the launch follows; -1 where there is none. A value out
// of range is treated as no token: there is no way to report it without a synchronisation, but it must not be followed.
template <int kVector>
__device__ void stage_tokens(const ScanLaunch& a, const Place<kVector>& place, int* tokens) {
  const int orders = a.one_order ? 1 : a.count;
  const int own = threadIdx.x;
  if (own >= place.positions) return;
  const int64_t position = static_cast<int64_t>(place.chunk) * place.positions + own;
  for (int j = 0; j < orders; ++j) {
    int64_t token = position;
    if (a.p.order != nullptr && position < a.p.length) {
      const Strides& s = a.p.order_stride;
      token = a.p.order[place.batch * s.batch + place.direction(a, j) * s.group + position * s.token];
    }
    tokens[j * place.positions + own] = token >= 0 && token < a.p.length ? static_cast<int>(token) : -1;
  }
}

// B and C of this thread's own position; each thread has at most one.
template <typename scalar_t, int kVector>
__device__ __forceinline__ Weights<acc_t<scalar_t>> load_weights(
    const ScanLaunch& a, const Place<kVector>& place, const int* tokens, int64_t k, int64_t n) {
  using acc = acc_t<scalar_t>;
  Weights<acc> w{acc(0), acc(0)};
  const int token = static_cast<int>(threadIdx.x) < place.positions ? tokens[threadIdx.x] : -1;
  if (token >= 0) {
    const Strides &b = a.p.B_stride, &c = a.p.C_stride;
    w.B = static_cast<acc>(static_cast<const scalar_t*>(
        a.p.B)[place.batch * b.batch + k * b.group + token * b.token + n * b.last]);
    w.C = static_cast<acc>(static_cast<const scalar_t*>(
        a.p.C)[place.batch * c.batch + k * c.group + token * c.token + n * c.last]);
  }
  return w;
}

// The vector of one token's row; `row` points at the thread's channels of token 0. Strides fit 31 bits of bytes.
template <typename scalar_t, int kVector>
__device__ __forceinline__ Pack<scalar_t, kVector> load_vector(const char* row, int token, int stride) {
  Pack<scalar_t, kVector> pack;
  if (token >= 0) {
    pack = *reinterpret_cast<const Pack<scalar_t, kVector>*>(row + static_cast<int64_t>(token) * stride);
  } else {
#pragma unroll
    for (int v = 0; v < kVector; ++v) pack.value[v] = scalar_t(0);
  }
  return pack;
}

template <typename scalar_t, int kVector>
__device__ __forceinline__ const char* thread_row(
    const void* base, const Strides& s, const Place<kVector>& place, int64_t group) {
  return reinterpret_cast<const char*>(
      static_cast<const scalar_t*>(base) + place.batch * s.batch + group * s.group + place.channel);
}

// The token of row `slot` of the tiles: its position's where all directions follow one order; and else, where one block
// holds the whole sequence, the tiles are in the tokens' own order.
__device__ __forceinline__ int slot_token(const ScanLaunch& a, const int* tokens, int slot) {
  return a.one_order ? tokens[slot] : (slot < a.p.length ? slot : -1);
}

// The thread's own rows of a [batch, groups, L, D] into a tile of acc.
template <typename scalar_t, int kVector>
__device__ __forceinline__ void load_tile(const ScanLaunch& a, const Place<kVector>& place, acc_t<scalar_t>* tile,
    const char* row, int64_t stride, const int* tokens) {
  using acc = acc_t<scalar_t>;
  Pack<scalar_t, kVector> raw[kTokens];
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    const int token = place.inside ? slot_token(a, tokens, place.sub * kTokens + i) : -1;
    raw[i] = load_vector<scalar_t, kVector>(row, token, static_cast<int>(stride * sizeof(scalar_t)));
  }
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    Pack<acc, kVector> wide;
#pragma unroll
    for (int v = 0; v < kVector; ++v) wide.value[v] = static_cast<acc>(raw[i].value[v]);
    reinterpret_cast<Pack<acc, kVector>*>(tile)[(place.sub * kTokens + i) * kLanes + place.lane] = wide;
  }
}

template <typename scalar_t, int kVector>
__device__ __forceinline__ void load_delta(Pack<scalar_t, kVector> (&raw)[kTokens], const ScanLaunch& a,
    const Place<kVector>& place, const int* tokens, int64_t k, const Walk& walk) {
  const char* row = thread_row<scalar_t>(a.p.delta, a.p.delta_stride, place, k);
  const int stride = static_cast<int>(a.p.delta_stride.token * sizeof(scalar_t));
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    raw[i] = load_vector<scalar_t, kVector>(row, place.inside ? tokens[walk[i]] : -1, stride);
  }
}

// Δ of the thread's steps; 0, which neither decays nor drives, where there is no token. Returns their sum.
template <typename scalar_t, int kVector>
__device__ __forceinline__ void time_steps(acc_t<scalar_t> (&dt)[kTokens][kVector], acc_t<scalar_t> (&total)[kVector],
    const Pack<scalar_t, kVector> (&raw)[kTokens], const ScanLaunch& a, const Place<kVector>& place, const int* tokens,
    int64_t k, const Walk& walk) {
  using acc = acc_t<scalar_t>;
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    const acc* biases = static_cast<const acc*>(a.p.delta_bias);
    const acc bias = biases != nullptr && place.inside ? biases[k * a.p.channels + place.channel + v] : acc(0);
    total[v] = acc(0);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const acc x = static_cast<acc>(raw[i].value[v]) + bias;
      const acc step = a.p.delta_softplus ? softplus<scalar_t>(x) : x;
      dt[i][v] = tokens[walk[i]] >= 0 ? step : acc(0);
      total[v] += dt[i][v];
    }
  }
}

// A tile of sums to memory.
template <typename scalar_t, int kVector>
__device__ __forceinline__ void write_result(const ScanLaunch& a, const Place<kVector>& place,
    const acc_t<scalar_t>* tile, const int* tokens, void* result) {
  using acc = acc_t<scalar_t>;
  if (!place.inside) return;
  const int64_t first = (place.batch * a.p.groups + place.group) * a.p.length * a.p.channels + place.channel;
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    const int token = slot_token(a, tokens, place.sub * kTokens + i);
    if (token < 0) continue;
    const int64_t at = first + token * a.p.channels;
    auto value = reinterpret_cast<const Pack<acc, kVector>*>(tile)[(place.sub * kTokens + i) * kLanes + place.lane];
    if (a.add) {
      const auto before = *reinterpret_cast<const Pack<acc, kVector>*>(static_cast<const acc*>(a.sum) + at);
#pragma unroll
      for (int v = 0; v < kVector; ++v) value.value[v] += before.value[v];
    }
    if (!a.finish) {
      *reinterpret_cast<Pack<acc, kVector>*>(static_cast<acc*>(a.sum) + at) = value;
      continue;
    }
    Pack<scalar_t, kVector> narrow;
#pragma unroll
    for (int v = 0; v < kVector; ++v) narrow.value[v] = static_cast<scalar_t>(value.value[v]);
    *reinterpret_cast<Pack<scalar_t, kVector>*>(static_cast<scalar_t*>(result) + at) = narrow;
  }
}

}  // namespace ssm
