// What a thread of the selective subtree scan reads: the rows of its channel, the weights B and C of a chunk of tokens,
// and rows of states that wait.
#pragma once

#include "subtree_scan/cuda/launch.h"
#include "tree/cuda/walk.cuh"

namespace ssm {

// kIsAligned: whether every row begins at a multiple of 16 bytes. A thread has one channel and kNumStates states of it.
template <typename scalar, int kNumStates, bool kIsAligned, bool kIsBackward>
struct SubtreeKind {
  using scalar_t = scalar;
  using acc = acc_t<scalar>;
  static constexpr int kStates = kNumStates, kWeights = 2 * kNumStates;
  static constexpr bool kAligned = kIsAligned, kBackward = kIsBackward;
};

// Rows of states. A thread's states are in pieces of 16 bytes, which lie beside those of its neighbours.
template <typename acc, int kStates>
struct StateRows {
  using Row = Channels<acc, kStates>;
  static constexpr int kPiece = 16 / static_cast<int>(sizeof(acc)), kPieces = kStates / kPiece;
  static constexpr int64_t kSize = int64_t(kStates) * kWarp;  // of a row, in numbers
  using Piece = Pack<acc, kPiece>;

  acc* base;  // this thread's first piece

  __device__ StateRows(acc* first) : base(first + threadIdx.x * kPiece) {}
  __device__ Piece* at(int64_t row) const { return reinterpret_cast<Piece*>(base + row * kSize); }
  __device__ Row read(int64_t row) const {
    Row value;
#pragma unroll
    for (int q = 0; q < kPieces; ++q) {
      const Piece piece = at(row)[q * kWarp];
#pragma unroll
      for (int k = 0; k < kPiece; ++k) value[q * kPiece + k] = piece.value[k];
    }
    return value;
  }
  __device__ void write(int64_t row, const Row& value) const {
#pragma unroll
    for (int q = 0; q < kPieces; ++q) {
      Piece piece;
#pragma unroll
      for (int k = 0; k < kPiece; ++k) piece.value[k] = value[q * kPiece + k];
      at(row)[q * kWarp] = piece;
    }
  }
};

// B and C of a chunk's tokens, in shared memory for all threads. Those of the next chunk are being read.
template <typename Kind>
struct TokenWeights {
  using scalar_t = typename Kind::scalar_t;
  using acc = typename Kind::acc;
  static constexpr int kStates = Kind::kStates, kWeights = Kind::kWeights, kEach = kChunk * kWeights / kWarp;
  using Row = Channels<acc, kStates>;

  VertexRows<const scalar_t> B, C;
  acc* shared;  // [kChunk, kWeights]
  int states;
  scalar_t coming[kEach];

  __device__ TokenWeights(const SubtreeScanLaunch& l, int64_t sample, acc* memory)
      : B(static_cast<const scalar_t*>(l.B) + sample * l.B_stride.batch, l.B_stride.vertex),
        C(static_cast<const scalar_t*>(l.C) + sample * l.C_stride.batch, l.C_stride.vertex),
        shared(memory),
        states(static_cast<int>(l.states)) {}

  __device__ void request(const WalkStep* steps) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int place = i * kWarp + threadIdx.x, n = place % kStates;
      const uint32_t vertex = steps[place / kWeights].vertex;
      const scalar_t* const row = place % kWeights < kStates ? B[vertex] : C[vertex];
      coming[i] = n < states ? row[n] : static_cast<scalar_t>(0.f);
    }
  }
  // Takes over the chunk that begins with step `first`, and asks for the next. The warp has to meet before and after.
  __device__ void advance(const WalkStep* held, int first) {
    if (first == 0) request(held);
#pragma unroll
    for (int i = 0; i < kEach; ++i) shared[i * kWarp + threadIdx.x] = static_cast<acc>(coming[i]);
    request(held + (first + kChunk) % kHeldSteps);
  }
  __device__ Row row(int from) const {
    using Piece = typename StateRows<acc, kStates>::Piece;
    constexpr int kPiece = StateRows<acc, kStates>::kPiece;
    Row row;
#pragma unroll
    for (int q = 0; q < kStates / kPiece; ++q) {
      const Piece piece = *reinterpret_cast<const Piece*>(shared + from + q * kPiece);
#pragma unroll
      for (int k = 0; k < kPiece; ++k) row[q * kPiece + k] = piece.value[k];
    }
    return row;
  }
  __device__ Row of_input(int j) const { return row(j * kWeights); }
  __device__ Row of_output(int j) const { return row(j * kWeights + kStates); }
};

// The thread's channel.
template <typename Kind>
struct SubtreeRows {
  using scalar_t = typename Kind::scalar_t;
  using acc = typename Kind::acc;
  static constexpr int kStates = Kind::kStates;
  using Copied = CopiedRows<scalar_t, 1, Kind::kAligned>;
  using Value = Pack<scalar_t, 1>;

  Copied x, delta, grad_y;
  Channels<acc, kStates> rate;          // A as `decay` takes it
  acc bias;                             // of delta, in units of Δ
  int64_t sample, slice, channel, own;  // own: the channel's place among the channels of all samples
  uint32_t length;
  bool next;
  bool live;  // whether there is such a channel; if not, all it reads counts as 0, and nothing is written

  __device__ SubtreeRows(const SubtreeScanLaunch& l, int64_t block)
      : x(input(l.x, l.x_stride, l, block)),
        delta(input(l.delta, l.delta_stride, l, block)),
        grad_y(input(l.grad_y, l.grad_y_stride, l, block)),
        sample(block / l.slices),
        slice(block % l.slices),
        length(static_cast<uint32_t>(l.length)),
        next(l.next) {
    channel = slice * kWarp + threadIdx.x;
    live = channel < l.channels;
    if (!live) channel = 0;
    own = sample * l.channels + channel;
    bias = static_cast<const acc*>(l.delta_bias)[channel] / kUnit<scalar_t>;
    const acc* const A = static_cast<const acc*>(l.A) + channel * l.states;
#pragma unroll
    for (int n = 0; n < kStates; ++n) rate[n] = n < l.states ? decay_rate<scalar_t>(A[n]) : acc(0);
  }
  __device__ static Copied input(
      const void* base, const VertexStrides& stride, const SubtreeScanLaunch& l, int64_t block) {
    return Copied(static_cast<const scalar_t*>(base) + block / l.slices * stride.batch, stride.vertex,
        block % l.slices * kWarp, l.channels);
  }

  // The token whose step the edge above a vertex takes.
  __device__ uint32_t edge_of(uint32_t vertex) const { return !next ? vertex : vertex + 1 < length ? vertex + 1 : 0; }
  __device__ acc value(const Value& read) const { return live ? static_cast<acc>(read.value[0]) : acc(0); }
  // Softplus in units of Δ.
  __device__ acc step(const Value& read) const { return softplus<scalar_t>(biased<scalar_t>(value(read), bias)); }
  // The derivative of softplus, made of its value.
  __device__ static acc slope(acc step) { return softplus_slope<scalar_t>(step) * kUnit<scalar_t>; }
};

}  // namespace ssm
