// What the kernels of the scan with many states share: which thread computes what, and how tiles come to shared memory.
#pragma once

#include "common/cuda/async_copy.cuh"
#include "common/cuda/reduce.cuh"
#include "selective_scan/cuda/block.cuh"
#include "selective_scan/cuda/configure.cuh"
#include "selective_scan/cuda/states.h"

namespace ssm {

// Which part is a thread's: kOwn states of one channel, in one chunk of one direction of one sample.
template <int kOwn, int kLanes>
struct StatesPlace {
  static constexpr int kStates = kOwn * kLanes;  // of a channel, those that do not exist included
  int64_t batch, sequence;                       // the sample; its direction in [batch, K]
  int group, k, slot;                            // group of u; direction; direction within the launch
  int chunk, split, channels, column, channel;   // block's channels; own one in the block and in all
  int part, neighbour, tiles;                    // lane in the channel; channel in the warp; tiles of the chunk
  bool reversed, exists;                         // whether the channel exists
  // Before and after the walk of a tile, a thread has two neighbouring channels, in every kRowStep-th row from the
  // first one on.
  static constexpr int kRowStep = 2 * kLanes;
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
    channels = blockDim.x / kLanes;
    part = threadIdx.x % kLanes;
    column = threadIdx.x / kLanes;
    neighbour = threadIdx.x % 32 / kLanes;
    channel = split * channels + column;
    exists = channel < a.p.channels;
    first_row = threadIdx.x / (channels / 2);
    row_column = 2 * (threadIdx.x - first_row * (channels / 2));
    row_channel = split * channels + row_column;
    const int64_t left = all_tiles(l) - static_cast<int64_t>(chunk) * l.chunk_tiles;
    tiles = static_cast<int>(left < l.chunk_tiles ? left : l.chunk_tiles);
  }

  static __device__ int64_t all_tiles(const StatesLaunch& l) { return (l.scan.p.length + kStateTile - 1) / kStateTile; }
  // The number in the sequence of the chunk's tile `t` in walking order.
  __device__ int64_t tile_number(const StatesLaunch& l, int t) const {
    return static_cast<int64_t>(chunk) * l.chunk_tiles + (reversed ? tiles - 1 - t : t);
  }
  __device__ bool is_first_chunk(const StatesLaunch& l) const { return chunk == (reversed ? l.scan.chunks - 1 : 0); }
  __device__ bool is_last_chunk(const StatesLaunch& l) const { return chunk == (reversed ? 0 : l.scan.chunks - 1); }
  // The state, within the launch, that the thread keeps in place i. Threads of neighbouring channels keep their states
  // in different places if kMixed, so that sums over channels need no selection (sum_over_channels).
  template <bool kMixed>
  __device__ int state(int i) const {
    return part * kOwn + (kMixed ? i ^ (neighbour & (kOwn - 1)) : i);
  }
  // Index of [batch, K, N, chunks, D].
  __device__ int64_t in_workspace(const StatesLaunch& l, int n) const {
    return ((sequence * l.scan.p.states + l.first_state + n) * l.scan.chunks + chunk) * l.scan.p.channels + channel;
  }
  // Index of [batch, K, D, N].
  __device__ int64_t in_state(const StatesLaunch& l, int n) const {
    return (sequence * l.scan.p.channels + channel) * l.scan.p.states + l.first_state + n;
  }
  // Index of the first of the thread's states in the checkpoints.
  __device__ int64_t in_checkpoints(const StatesLaunch& l, int t, int run) const {
    const int64_t sample = (batch * l.scan.p.groups + group) * l.scan.count + slot;
    const int64_t row = (sample * all_tiles(l) + tile_number(l, t)) * kRunsOfTile + run;
    return (row * l.scan.p.channels + channel) * kStates + part * kOwn;
  }
};

// The thread's values of a workspace, or zeros where there are none.
template <bool kMixed, typename acc, int kOwn, int kLanes>
__device__ __forceinline__ void load_states(acc (&values)[kOwn], const StatesLaunch& l,
    const StatesPlace<kOwn, kLanes>& place, const void* from, bool by_chunk) {
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int n = place.template state<kMixed>(i);
    const bool exists = from != nullptr && place.exists && n < l.states();
    values[i] =
        exists ? static_cast<const acc*>(from)[by_chunk ? place.in_workspace(l, n) : place.in_state(l, n)] : acc(0);
  }
}
template <bool kMixed, typename acc, int kOwn, int kLanes>
__device__ __forceinline__ void store_states(
    const acc (&values)[kOwn], const StatesLaunch& l, const StatesPlace<kOwn, kLanes>& place, void* to, bool by_chunk) {
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int n = place.template state<kMixed>(i);
    if (!place.exists || n >= l.states()) continue;
    static_cast<acc*>(to)[by_chunk ? place.in_workspace(l, n) : place.in_state(l, n)] = values[i];
  }
}

// A of the thread's states.
template <bool kMixed, typename acc, int kOwn, int kLanes>
__device__ __forceinline__ void load_A(acc (&A)[kOwn], const StatesLaunch& l, const StatesPlace<kOwn, kLanes>& place) {
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int n = place.template state<kMixed>(i);
    const int64_t row = static_cast<int64_t>(place.k) * l.scan.p.channels + place.channel;
    const bool exists = place.exists && n < l.states();
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

// Brings a block's tiles to shared memory, in walking order. While the block works on one tile, the next one is copied.
template <typename scalar_t, typename Step, int kCopies, int kOwn, int kLanes>
class TileStream {
  using acc = acc_t<scalar_t>;
  using Place = StatesPlace<kOwn, kLanes>;
  static constexpr int kStates = Place::kStates;
  static constexpr bool kBackward = std::is_same_v<Step, BackwardStep<acc>>;

 public:
  // `grad_y` is null in the forward pass.
  __device__ TileStream(
      const StatesLaunch& l, const Place& place, const StatesMemory<scalar_t, Step>& m, const void* grad_y)
      : l_(l),
        place_(place),
        m_(m),
        grad_y_(static_cast<const scalar_t*>(grad_y)) {
    bias_ = parameters_of<acc>(l, l.scan.p.delta_bias, place);
#pragma unroll
    for (int v = 0; v < 2; ++v) bias_.value[v] *= acc(1) / kUnit<scalar_t>;
  }

  // Calls work(t, tokens, u) for each tile, from the first to the last or back. `u` are the tile's inputs as they come
  // from memory. All threads of the block call. Between two calls there is a barrier.
  template <typename Work>
  __device__ __forceinline__ void each(bool backwards, const Work& work) {
    const int tiles = place_.tiles;
    const auto walked = [&](int i) { return backwards ? tiles - 1 - i : i; };
    const bool finds_tokens = threadIdx.x < kStateTile;
    if (finds_tokens) m_.tokens[threadIdx.x] = find_token(walked(0));
    __syncthreads();
    start(0);
    int next_token = -1;
    if (finds_tokens && tiles > 1) next_token = find_token(walked(1));
#pragma unroll 1
    for (int i = 0; i < tiles; ++i) {
      wait_for_copies();
      __syncthreads();
      const int now = i & 1;
      convert_steps(now);
      convert_weights(now);
      if (finds_tokens) m_.tokens[(now ^ 1) * kStateTile + threadIdx.x] = next_token;
      __syncthreads();
      if (i + 1 < tiles) start(now ^ 1);
      if (finds_tokens && i + 2 < tiles) next_token = find_token(walked(i + 2));
      work(walked(i), m_.tokens + now * kStateTile, m_.u + now * kStateTile * place_.channels);
    }
  }

 private:
  // The token of the tile's row that is this thread's number, or -1.
  __device__ __forceinline__ int find_token(int t) const {
    const SelectiveScanParams& p = l_.scan.p;
    const int row = threadIdx.x;
    const int64_t position = place_.tile_number(l_, t) * kStateTile + (place_.reversed ? kStateTile - 1 - row : row);
    if (position >= p.length) return -1;
    if (p.order == nullptr) return static_cast<int>(position);
    const Strides& s = p.order_stride;
    const int64_t token = p.order[place_.batch * s.batch + place_.k * s.group + position * s.token];
    return token >= 0 && token < p.length ? static_cast<int>(token) : -1;
  }

  // Starts the copies of the tile whose tokens are in the set `set`. Rows without a token become 0.
  __device__ __forceinline__ void start(int set) const {
    const SelectiveScanParams& p = l_.scan.p;
    const int* tokens = m_.tokens + set * kStateTile;
    const int size = kStateTile * place_.channels, first_channel = place_.split * place_.channels;
    const Strides &su = p.u_stride, &sd = p.delta_stride;
    const auto* u = static_cast<const scalar_t*>(p.u) + place_.batch * su.batch + place_.group * su.group;
    const auto* delta = static_cast<const scalar_t*>(p.delta) + place_.batch * sd.batch + place_.k * sd.group;
    copy_channels(m_.u + set * size, u + first_channel, su.token, tokens);
    copy_channels(m_.delta + set * size, delta + first_channel, sd.token, tokens);
    if constexpr (kBackward) {
      const auto* grad_y = grad_y_ + (place_.batch * p.groups + place_.group) * p.length * p.channels;
      copy_channels(m_.grad_y + set * size, grad_y + first_channel, p.channels, tokens);
    }
    copy_weights(m_.raw_B + set * kStateTile * kStates, p.B, p.B_stride, tokens);
    copy_weights(m_.raw_C + set * kStateTile * kStates, p.C, p.C_stride, tokens);
  }

  // `from` points at the block's first channel of token 0. Channels that do not exist become 0.
  __device__ __forceinline__ void copy_channels(
      scalar_t* tile, const scalar_t* from, int64_t stride, const int* tokens) const {
    const int left = static_cast<int>(l_.scan.p.channels) - place_.split * place_.channels;
    const int row_bytes = static_cast<int>(stride * sizeof(scalar_t));
    if (l_.scan.aligned) {
      // The number of pieces is known for any number of channels, since a block has kLanes threads for each.
      constexpr int kWidth = 16 / sizeof(scalar_t), kRows = kWidth * kLanes;
      const int pieces = place_.channels / kWidth, first_row = threadIdx.x / pieces;
      const int channel = (threadIdx.x - first_row * pieces) * kWidth;
#pragma unroll
      for (int i = 0; i < (kStateTile + kRows - 1) / kRows; ++i) {
        const int row = first_row + i * kRows;
        if (kStateTile % kRows != 0 && row >= kStateTile) break;
        const int token = tokens[row];
        copy_async_or_zero<16>(tile + row * place_.channels + channel,
            row_address(from + channel, max(token, 0), row_bytes), token >= 0 && channel < left);
      }
    } else {
      for (int row = place_.first_row; row < kStateTile; row += Place::kRowStep) {
        const auto* source = reinterpret_cast<const scalar_t*>(row_address(from, max(tokens[row], 0), row_bytes));
        for (int c = place_.row_column; c < place_.row_column + 2; ++c) {
          tile[row * place_.channels + c] = tokens[row] >= 0 && c < left ? source[c] : scalar_t(0);
        }
      }
    }
  }

  // States that do not exist become 0.
  __device__ __forceinline__ void copy_weights(
      scalar_t* rows, const void* weights, const Strides& s, const int* tokens) const {
    const auto* from =
        static_cast<const scalar_t*>(weights) + place_.batch * s.batch + place_.k * s.group + l_.first_state * s.last;
    if (l_.weight_bytes == 16) {
      copy_weights_by<16>(rows, from, s.token, tokens);
    } else if (l_.weight_bytes == kLeastCopy<scalar_t>) {
      copy_weights_by<kLeastCopy<scalar_t>>(rows, from, s.token, tokens);
    } else {
      for (int i = threadIdx.x; i < kStateTile * kStates; i += blockDim.x) {
        const int n = i % kStates, token = tokens[i / kStates];
        rows[i] = token >= 0 && n < l_.states() ? from[token * s.token + n * s.last] : scalar_t(0);
      }
    }
  }
  template <int kBytes>
  __device__ __forceinline__ void copy_weights_by(
      scalar_t* rows, const scalar_t* from, int64_t stride, const int* tokens) const {
    constexpr int kWidth = kBytes / static_cast<int>(sizeof(scalar_t)), kPieces = kStates / kWidth;
    if constexpr (kPieces > 0) {
      const int row_bytes = static_cast<int>(stride * sizeof(scalar_t)), states = l_.states();
      for (int i = threadIdx.x; i < kStateTile * kPieces; i += blockDim.x) {
        const int n = i % kPieces * kWidth, token = tokens[i / kPieces];
        copy_async_or_zero<kBytes>(
            rows + i * kWidth, row_address(from + n, max(token, 0), row_bytes), token >= 0 && n < states);
      }
    }
  }

  // Turns what came from memory into what the walk needs. Where there is no token Δ is 0, which changes no state.
  __device__ __forceinline__ void convert_steps(int set) const {
    const int channels = place_.channels, size = kStateTile * channels;
    const int* tokens = m_.tokens + set * kStateTile;
    const bool is_softplus = l_.scan.p.delta_softplus;
#pragma unroll 2
    for (int row = place_.first_row; row < kStateTile; row += Place::kRowStep) {
      const int at = row * channels + place_.row_column, in_set = set * size + at;
      const auto delta = load_pack<scalar_t, 2>(m_.delta + in_set, 0), u = load_pack<scalar_t, 2>(m_.u + in_set, 0);
      const bool exists = tokens[row] >= 0;
      Two<Step> steps;
      if constexpr (kBackward) {
        const auto grad_y = load_pack<scalar_t, 2>(m_.grad_y + in_set, 0);
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          steps.value[v].grad = static_cast<acc>(grad_y.value[v]);
          steps.value[v].x = static_cast<acc>(u.value[v]);
        }
      }
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        acc dt = biased<scalar_t>(static_cast<acc>(delta.value[v]), bias_.value[v]);
        if (is_softplus) dt = softplus<scalar_t>(dt);
        dt = exists ? dt : acc(0);
        steps.value[v].dt = dt;
        steps.value[v].drive = dt * static_cast<acc>(u.value[v]);
      }
      *reinterpret_cast<Two<Step>*>(m_.steps + at) = steps;
    }
  }
  __device__ __forceinline__ void convert_weights(int set) const {
    constexpr int kWidth = kOwnStates, kParts = kStates / kWidth;
    const scalar_t *B = m_.raw_B + set * kStateTile * kStates, *C = m_.raw_C + set * kStateTile * kStates;
    for (int i = threadIdx.x; i < kStateTile * kParts; i += blockDim.x) {
      const auto raw_b = load_pack<scalar_t, kWidth>(B, i), raw_c = load_pack<scalar_t, kWidth>(C, i);
      Pack<acc, kWidth> b, c;
#pragma unroll
      for (int n = 0; n < kWidth; ++n) {
        b.value[n] = static_cast<acc>(raw_b.value[n]) * kUnit<scalar_t>;
        c.value[n] = static_cast<acc>(raw_c.value[n]);
      }
      const int row = i / kParts, part = i % kParts;
#pragma unroll
      for (int copy = 0; copy < kCopies; ++copy) {
        Pack<acc, kWidth> mixed_b, mixed_c;
#pragma unroll
        for (int n = 0; n < kWidth; ++n) {
          mixed_b.value[n] = b.value[n ^ copy];
          mixed_c.value[n] = c.value[n ^ copy];
        }
        const int at = (row * kCopies + copy) * kParts + part;
        reinterpret_cast<Pack<acc, kWidth>*>(m_.B)[at] = mixed_b;
        reinterpret_cast<Pack<acc, kWidth>*>(m_.C)[at] = mixed_c;
      }
    }
  }

  const StatesLaunch& l_;
  const Place& place_;
  const StatesMemory<scalar_t, Step>& m_;
  const scalar_t* grad_y_;
  Two<acc> bias_;
};

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
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      if (v < left) values.value[v] = from[v];
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

// One block for each chunk of each direction and each part of the channels.
template <typename... Arguments>
void launch_states(void (*kernel)(StatesLaunch, Arguments...), const StatesLaunch& l, int lanes, size_t shared_bytes,
    const Arguments&... arguments) {
  const ScanLaunch& a = l.scan;
  const int channels = l.threads / lanes;
  const int64_t columns = (a.p.channels + channels - 1) / channels * a.chunks;
  const int64_t rows = a.p.batch * a.p.groups * a.count;
  if (columns == 0 || rows == 0) return;
  const int64_t layers = (rows + kMaxGridY - 1) / kMaxGridY;
  const dim3 grid(grid_blocks(columns, "selective_scan"), static_cast<unsigned>(layers == 1 ? rows : kMaxGridY),
      static_cast<unsigned>(layers));
  launch_kernel("selective_scan", kernel, {grid, dim3(static_cast<unsigned>(l.threads)), shared_bytes, 1, a.stream}, l,
      arguments...);
}

}  // namespace ssm
