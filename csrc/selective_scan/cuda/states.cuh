// What the kernels of the scan with many states share: which thread computes what, and how tiles come to shared memory.
#pragma once

#include "common/cuda/reduce.cuh"
#include "selective_scan/cuda/block.cuh"
#include "selective_scan/cuda/configure.cuh"
#include "selective_scan/cuda/states.h"

namespace ssm {

// Which part is a thread's: kOwn states of each of kChannels neighbouring channels, in one chunk of one direction of
// one sample.
template <int kOwn, int kLanes, int kChannels = 1>
struct StatesPlace {
  static constexpr int kStates = kOwn * kLanes;  // of a channel, those that do not exist included
  int64_t batch, sequence;                       // the sample; its direction in [batch, K]
  int group, k, slot;                            // group of u; direction; direction within the launch
  int chunk, split, channels, column, channel;   // block's channels; first own one in the block and in all
  int left;                                      // channels from the first own one on
  int part, neighbour, tiles;                    // lane in the channel; its place in the warp; tiles of the chunk
  bool reversed;
  // Before and after the walk of a tile, a thread has two neighbouring channels, in every kRowStep-th row from the
  // first one on.
  static constexpr int kRowStep = 2 * kLanes / kChannels;
  int row_column, first_row, row_channel;

  __device__ explicit StatesPlace(const StatesLaunch& l) {
    const ScanLaunch& a = l.scan;
    split = static_cast<int>(blockIdx.x / a.chunks);
    chunk = static_cast<int>(blockIdx.x) - split * a.chunks;
    unsigned own = blockIdx.y + blockIdx.z * kMaxGridY;
    slot = static_cast<int>(own % a.count);
    own /= a.count;
    const unsigned groups = static_cast<unsigned>(a.p.groups);
    batch = own / groups;
    group = static_cast<int>(own % groups);
    k = group * static_cast<int>(a.p.inner) + a.first + slot;
    sequence = batch * a.p.groups * a.p.inner + k;
    reversed = is_reversed(a, k);
    channels = blockDim.x / kLanes * kChannels;
    part = threadIdx.x % kLanes;
    column = threadIdx.x / kLanes * kChannels;
    neighbour = threadIdx.x % 32 / kLanes;
    channel = split * channels + column;
    left = static_cast<int>(a.p.channels) - channel;
    first_row = threadIdx.x / (channels / 2);
    row_column = 2 * (threadIdx.x - first_row * (channels / 2));
    row_channel = split * channels + row_column;
    const int64_t tiles_left = all_tiles(l) - static_cast<int64_t>(chunk) * l.chunk_tiles;
    tiles = static_cast<int>(tiles_left < l.chunk_tiles ? tiles_left : l.chunk_tiles);
  }

  // Whether the thread's channel number `c` exists.
  __device__ bool exists(int c = 0) const { return c < left; }

  static __device__ int64_t all_tiles(const StatesLaunch& l) { return (l.scan.p.length + kStateTile - 1) / kStateTile; }
  // The number in the sequence of the chunk's tile `t` in walking order.
  __device__ int64_t tile_number(const StatesLaunch& l, int t) const {
    return static_cast<int64_t>(chunk) * l.chunk_tiles + (reversed ? tiles - 1 - t : t);
  }
  __device__ bool is_last_chunk(const StatesLaunch& l) const { return chunk == (reversed ? 0 : l.scan.chunks - 1); }
  // The state, within the launch, that the thread keeps in place i. Threads of neighbouring channels keep their states
  // in different places if kMixed, so that sums over channels need no selection (sum_over_channels).
  template <bool kMixed>
  __device__ int state(int i) const {
    return part * kOwn + (kMixed ? i ^ (neighbour & (kOwn - 1)) : i);
  }
  // Index of [batch, K, N, chunks, D], at the thread's channel number `c`.
  __device__ int64_t in_workspace(const StatesLaunch& l, int n, int c) const {
    return ((sequence * l.scan.p.states + l.first_state + n) * l.scan.chunks + chunk) * l.scan.p.channels + channel + c;
  }
  // Index of [batch, K, D, N], at the thread's channel number `c`.
  __device__ int64_t in_state(const StatesLaunch& l, int n, int c) const {
    return (sequence * l.scan.p.channels + channel + c) * l.scan.p.states + l.first_state + n;
  }
  // Index of the first of the thread's states in the checkpoints.
  __device__ int64_t in_checkpoints(const StatesLaunch& l, int t, int run) const {
    const int64_t sample = (batch * l.scan.p.groups + group) * l.scan.count + slot;
    const int64_t row = (sample * all_tiles(l) + tile_number(l, t)) * kRunsOfTile + run;
    return (row * l.scan.p.channels + channel) * kStates + part * kOwn;
  }
};

// The values of a workspace for the thread's channel number `c`, or zeros where there are none.
template <bool kMixed, typename Place, typename acc, int kOwn>
__device__ __forceinline__ void load_states(
    acc (&values)[kOwn], const StatesLaunch& l, const Place& place, const void* from, bool by_chunk, int c = 0) {
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int n = place.template state<kMixed>(i);
    const bool exists = from != nullptr && place.exists(c) && n < l.states();
    const int64_t at = by_chunk ? place.in_workspace(l, n, c) : place.in_state(l, n, c);
    values[i] = exists ? static_cast<const acc*>(from)[at] : acc(0);
  }
}
template <bool kMixed, typename Place, typename acc, int kOwn>
__device__ __forceinline__ void store_states(
    const acc (&values)[kOwn], const StatesLaunch& l, const Place& place, void* to, bool by_chunk, int c = 0) {
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int n = place.template state<kMixed>(i);
    if (!place.exists(c) || n >= l.states()) continue;
    static_cast<acc*>(to)[by_chunk ? place.in_workspace(l, n, c) : place.in_state(l, n, c)] = values[i];
  }
}

// A of the thread's states of its channel number `c`.
template <bool kMixed, typename Place, typename acc, int kOwn>
__device__ __forceinline__ void load_A(acc (&A)[kOwn], const StatesLaunch& l, const Place& place, int c = 0) {
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int n = place.template state<kMixed>(i);
    const int64_t row = static_cast<int64_t>(place.k) * l.scan.p.channels + place.channel + c;
    const bool exists = place.exists(c) && n < l.states();
    A[i] = exists ? static_cast<const acc*>(l.scan.p.A)[row * l.scan.p.states + l.first_state + n] : acc(0);
  }
}

template <typename T>
using Two = Pack<T, 2>;

// D or the bias of Δ of the two channels whose rows the thread has, 0 where there is none.
template <typename acc, typename Place>
__device__ __forceinline__ Two<acc> parameters_of(const StatesLaunch& l, const void* parameter, const Place& place) {
  const acc* row = static_cast<const acc*>(parameter) + place.k * l.scan.p.channels;
  Two<acc> values{};
#pragma unroll
  for (int v = 0; v < 2; ++v) {
    if (parameter != nullptr && place.row_channel + v < l.scan.p.channels) values.value[v] = row[place.row_channel + v];
  }
  return values;
}

// Splits kCount sums over kLanes neighbouring lanes: lane i gets the sums number i · kCount / kLanes and following.
template <int kLanes, typename acc, int kCount>
__device__ __forceinline__ void split_sums(acc (&part)[kCount]) {
  static_assert(kCount % kLanes == 0);
  int count = kCount;
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    count /= 2;
    const bool upper = (threadIdx.x & offset) != 0;
#pragma unroll
    for (int j = 0; j < kCount / 2; ++j) {
      if (j < count) part[j] = exchange_halves(upper, offset, part[j], part[j + count]);
    }
  }
}

// The thread's two channels of all tokens, in a tensor whose rows are channels.
template <typename T>
struct ChannelsOfTokens {
  T* first;  // of token 0, or null
  int channels, left;
  bool aligned;

  // `row` is the number of token 0's row.
  template <typename Place>
  __device__ ChannelsOfTokens(const StatesLaunch& l, const Place& place, void* tensor, int64_t row)
      : first(tensor == nullptr ? nullptr : static_cast<T*>(tensor) + row * l.scan.p.channels + place.row_channel),
        channels(static_cast<int>(l.scan.p.channels)),
        left(channels - place.row_channel),
        aligned(l.scan.aligned) {}

  template <typename acc>
  __device__ __forceinline__ void store(int token, const Two<acc>& values) const {
    T* const to = at(token);
    if (aligned) {
      const Two<T> pair{static_cast<T>(values.value[0]), static_cast<T>(values.value[1])};
      if (left > 0) *reinterpret_cast<Two<T>*>(to) = pair;
    } else {
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        if (v < left) to[v] = static_cast<T>(values.value[v]);
      }
    }
  }
  __device__ __forceinline__ Two<T> load(int token) const {
    const T* const from = at(token);
    Two<T> values{};
    if (aligned) {
      if (left > 0) values = *reinterpret_cast<const Two<T>*>(from);
    } else {
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        if (v < left) values.value[v] = from[v];
      }
    }
    return values;
  }

 private:
  __device__ __forceinline__ T* at(int token) const {
    return reinterpret_cast<T*>(const_cast<char*>(row_address(first, token, channels * static_cast<int>(sizeof(T)))));
  }
};

template <typename acc>
__device__ __forceinline__ Two<acc> operator+(const Two<acc>& a, const Two<acc>& b) {
  return {a.value[0] + b.value[0], a.value[1] + b.value[1]};
}

// A result that is a sum over directions, at the channels whose rows the thread has.
template <typename scalar_t>
struct SumOverDirections {
  using acc = acc_t<scalar_t>;
  ChannelsOfTokens<scalar_t> result;
  ChannelsOfTokens<acc> sum;
  bool add, finish;

  template <typename Place>
  __device__ SumOverDirections(const StatesLaunch& l, const Place& place, void* to)
      : result(l, place, to, first_row(l, place)),
        sum(l, place, l.scan.sum,
            place.slot * l.scan.p.batch * l.scan.p.groups * l.scan.p.length + first_row(l, place)),
        add(l.scan.add),
        finish(l.scan.finish) {}

  // Calls each(put), where put(token, values) writes the two elements of a token.
  template <typename Each>
  __device__ __forceinline__ void write(const Each& each) const {
    if (sum.first == nullptr) {
      each([&](int token, const Two<acc>& values) { result.store(token, values); });
    } else if (finish) {
      each([&](int token, const Two<acc>& values) { result.store(token, sum.load(token) + values); });
    } else if (add) {
      each([&](int token, const Two<acc>& values) { sum.store(token, sum.load(token) + values); });
    } else {
      each([&](int token, const Two<acc>& values) { sum.store(token, values); });
    }
  }

 private:
  template <typename Place>
  static __device__ int64_t first_row(const StatesLaunch& l, const Place& place) {
    return (place.batch * l.scan.p.groups + place.group) * l.scan.p.length;
  }
};

// One block for each chunk of each direction and each part of the channels, of which a block has `channels`.
template <typename... Arguments>
void launch_states(void (*kernel)(StatesLaunch, Arguments...), const StatesLaunch& l, int channels, size_t shared_bytes,
    const Arguments&... arguments) {
  const ScanLaunch& a = l.scan;
  const int64_t columns = (a.p.channels + channels - 1) / channels * a.chunks;
  const int64_t rows = a.p.batch * a.p.groups * a.count;
  if (columns == 0 || rows == 0) return;
  launch_kernel("selective_scan", kernel,
      {grid_of(columns, rows), dim3(static_cast<unsigned>(l.threads)), shared_bytes, 1, a.stream}, l, arguments...);
}

}  // namespace ssm
