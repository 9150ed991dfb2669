// Copies a block's tiles to shared memory ahead of their use.
#pragma once

#include "common/cuda/async_copy.cuh"
#include "selective_scan/cuda/block.cuh"

namespace ssm {

// The 16-byte pieces that one thread copies, which are the same for all tiles.
template <bool kOneOrder, typename scalar_t>
class Copier {
 public:
  __device__ Copier(const ScanLaunch& a, const Place& place, const int* tokens)
      : channel_(threadIdx.x % kPieces * kWidth) {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int row = (threadIdx.x + i * blockDim.x) / kPieces;
      if (row >= place.positions) {
        token_[i] = kOutside;
      } else {
        token_[i] = kOneOrder ? tokens[row] : (row < a.p.length ? row : -1);
      }
    }
  }

  // Fills, once, the rows without a token: no copy ever writes them.
  __device__ void fill_missing(const Place& place, scalar_t* tile, scalar_t value) const {
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      if (token_[i] == -1) fill(piece(tile, i), value);
    }
    if (threadIdx.x < kPieces) fill(tile + place.positions * kColumns<scalar_t> + threadIdx.x * kWidth, value);
  }

  // Starts the copy of a tile. `rows` points at its first channel of token 0. Channels that do not exist become 0.
  __device__ __forceinline__ void copy(
      const ScanLaunch& a, scalar_t* tile, const scalar_t* rows, int64_t stride, int first_channel) const {
    const int left = static_cast<int>(a.p.channels) - first_channel - channel_;
    const int row_bytes = static_cast<int>(stride * sizeof(scalar_t));
    const scalar_t* from = rows + channel_;
    if (a.aligned) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        copy_async_or_zero<16>(piece(tile, i), row_address(from, token_[i], row_bytes), left > 0, token_[i] >= 0);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        if (token_[i] < 0) continue;
        const auto* source = reinterpret_cast<const scalar_t*>(row_address(from, token_[i], row_bytes));
#pragma unroll 1
        for (int c = 0; c < kWidth; ++c) piece(tile, i)[c] = c < left ? source[c] : scalar_t(0);
      }
    }
  }

 private:
  static constexpr int kWidth = 16 / sizeof(scalar_t);         // channels of a piece
  static constexpr int kPieces = kColumns<scalar_t> / kWidth;  // of a row
  static constexpr int kCopies = (kTokens * kPieces + kLanes - 1) / kLanes;
  static constexpr int kOutside = -2;

  static __device__ __forceinline__ scalar_t* piece(scalar_t* tile, int i) {
    return tile + (threadIdx.x + i * blockDim.x) * kWidth;
  }
  static __device__ void fill(scalar_t* to, scalar_t value) {
    for (int c = 0; c < kWidth; ++c) to[c] = value;
  }

  int token_[kCopies];
  int channel_;
};

// Starts the copies of one direction's parameters for a tile that begins with `first_channel`.
template <typename scalar_t>
__device__ void copy_parameters(const ScanLaunch& a, Parameters<scalar_t>& to, int k, int first_channel) {
  using acc = acc_t<scalar_t>;
  const int column = threadIdx.x, channel = first_channel + column;
  if (column >= kColumns<scalar_t>) return;
  const bool exists = channel < a.p.channels;
  const int64_t row = exists ? static_cast<int64_t>(k) * a.p.channels + channel : 0;
  const acc *D = static_cast<const acc*>(a.p.D), *bias = static_cast<const acc*>(a.p.delta_bias);
  copy_async_or_zero<sizeof(acc)>(&to.A[column], static_cast<const acc*>(a.p.A) + row, exists);
  copy_async_or_zero<sizeof(acc)>(&to.D[column], D + row, exists && D != nullptr);
  copy_async_or_zero<sizeof(acc)>(&to.bias[column], bias + row, exists && bias != nullptr);
}

// Where tiles go in shared memory.
template <typename scalar_t>
struct Destinations {
  Parameters<scalar_t>* parameters;  // by slot and by direction of a step
  scalar_t* delta;                   // likewise
  scalar_t *u, *grad_y;              // two tiles each, which take turns; grad_y is null in the forward pass
};

// Starts the copies of one step after another. A step is a tile and kJoint directions.
template <bool kOneOrder, int kJoint, typename scalar_t>
class Stream {
 public:
  // `grad_y` is contiguous, and null in the forward pass.
  __device__ Stream(const ScanLaunch& a, const Place& place, const Copier<kOneOrder, scalar_t>& copier,
      const Destinations<scalar_t>& to, const void* grad_y)
      : copier_(copier),
        to_(to),
        grad_y_(static_cast<const scalar_t*>(grad_y)),
        tile_(place.first_tile(a)),
        j_(0) {
    const Strides& s = a.p.delta_stride;
    delta_ = static_cast<const scalar_t*>(a.p.delta) + place.batch * s.batch + place.direction(a, 0) * s.group +
             tile_ * kColumns<scalar_t>;
  }

  // Starts the next step's copies. Those of a tile's first direction include u and the gradient of y.
  __device__ __forceinline__ void advance(const ScanLaunch& a, const Place& place, int parameter_slot, int delta_slot) {
    if (tile_ >= place.end_tile(a)) return;
    const int first_channel = tile_ * kColumns<scalar_t>, size = tile_size<scalar_t>(place.positions);
    if (j_ == 0) {
      const Strides& s = a.p.u_stride;
      const auto* u = static_cast<const scalar_t*>(a.p.u) + place.batch * s.batch + place.group * s.group;
      copier_.copy(a, to_.u + (tile_ & 1) * size, u + first_channel, s.token, first_channel);
      if (to_.grad_y != nullptr) {
        const auto* grad_y = grad_y_ + (place.batch * a.p.groups + place.group) * a.p.length * a.p.channels;
        copier_.copy(a, to_.grad_y + (tile_ & 1) * size, grad_y + first_channel, a.p.channels, first_channel);
      }
    }
#pragma unroll
    for (int i = 0; i < kJoint; ++i) {
      copier_.copy(a, to_.delta + (delta_slot * kJoint + i) * size, delta_, a.p.delta_stride.token, first_channel);
      copy_parameters(a, to_.parameters[parameter_slot * kJoint + i], place.direction(a, j_ + i), first_channel);
      delta_ += a.p.delta_stride.group;
    }
    j_ += kJoint;
    if (j_ < a.count) return;
    j_ = 0;
    ++tile_;
    delta_ += kColumns<scalar_t> - a.count * a.p.delta_stride.group;
  }

 private:
  const Copier<kOneOrder, scalar_t>& copier_;
  const Destinations<scalar_t> to_;
  const scalar_t* grad_y_;
  const scalar_t* delta_;  // of the next step
  int tile_, j_;
};

}  // namespace ssm
