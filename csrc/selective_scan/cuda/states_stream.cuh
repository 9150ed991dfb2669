// Brings the tiles of the scan with many states to shared memory, ahead of their use.
#pragma once

#include "common/cuda/async_copy.cuh"
#include "selective_scan/cuda/states.cuh"

namespace ssm {

// Brings a block's tiles to shared memory, in walking order. While the block works on one tile, the next one is copied
// to where the tile lay before its conversion.
template <typename scalar_t, typename Step, int kCopies, typename Place>
class TileStream {
  using acc = acc_t<scalar_t>;
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
  // from memory; null in the backward pass. All threads of the block call. Between two calls there is a barrier.
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
      convert_weights();
      if (finds_tokens) m_.tokens[(now ^ 1) * kStateTile + threadIdx.x] = next_token;
      __syncthreads();
      if (i + 1 < tiles) start(now ^ 1);
      if (finds_tokens && i + 2 < tiles) next_token = find_token(walked(i + 2));
      work(walked(i), m_.tokens + now * kStateTile, kBackward ? nullptr : u_of(now));
    }
  }

 private:
  __device__ __forceinline__ scalar_t* u_of(int set) const {
    return m_.u + (kBackward ? 0 : set * kStateTile * place_.channels);
  }

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
    const int first_channel = place_.split * place_.channels;
    const Strides &su = p.u_stride, &sd = p.delta_stride;
    const auto* u = static_cast<const scalar_t*>(p.u) + place_.batch * su.batch + place_.group * su.group;
    const auto* delta = static_cast<const scalar_t*>(p.delta) + place_.batch * sd.batch + place_.k * sd.group;
    copy_channels(u_of(set), u + first_channel, su.token, tokens);
    copy_channels(m_.delta, delta + first_channel, sd.token, tokens);
    if constexpr (kBackward) {
      const auto* grad_y = grad_y_ + (place_.batch * p.groups + place_.group) * p.length * p.channels;
      copy_channels(m_.grad_y, grad_y + first_channel, p.channels, tokens);
    }
    copy_weights(m_.raw_B, p.B, p.B_stride, tokens);
    copy_weights(m_.raw_C, p.C, p.C_stride, tokens);
  }

  // `from` points at the block's first channel of token 0. Channels that do not exist become 0.
  __device__ __forceinline__ void copy_channels(
      scalar_t* tile, const scalar_t* from, int64_t stride, const int* tokens) const {
    const int left = static_cast<int>(l_.scan.p.channels) - place_.split * place_.channels;
    const int row_bytes = static_cast<int>(stride * sizeof(scalar_t));
    if (l_.scan.aligned) {
      // The number of rows at a time is known for any number of channels, since it is for the pairs of Place.
      constexpr int kWidth = 16 / sizeof(scalar_t), kRows = kWidth / 2 * Place::kRowStep;
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
    const int channels = place_.channels;
    const int* tokens = m_.tokens + set * kStateTile;
    const bool is_softplus = l_.scan.p.delta_softplus;
#pragma unroll 2
    for (int row = place_.first_row; row < kStateTile; row += Place::kRowStep) {
      const int at = row * channels + place_.row_column;
      const auto delta = load_pack<scalar_t, 2>(m_.delta + at, 0), u = load_pack<scalar_t, 2>(u_of(set) + at, 0);
      const bool exists = tokens[row] >= 0;
      Two<Step> steps;
      if constexpr (kBackward) {
        const auto grad_y = load_pack<scalar_t, 2>(m_.grad_y + at, 0);
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
  __device__ __forceinline__ void convert_weights() const {
    constexpr int kWidth = kOwnStates, kParts = kStates / kWidth;
    for (int i = threadIdx.x; i < kStateTile * kParts; i += blockDim.x) {
      const auto raw_b = load_pack<scalar_t, kWidth>(m_.raw_B, i), raw_c = load_pack<scalar_t, kWidth>(m_.raw_C, i);
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

}  // namespace ssm
