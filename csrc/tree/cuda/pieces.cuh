// What a warp does for a piece of a cut tree besides walking it. The first kernel walks up through the piece alone, and
// then along its spine for the sums that trunk.h hands on. The last kernel adds along the spine what came up from the
// pieces below, and then walks down.
#pragma once

#include "tree/cuda/walk.cuh"

namespace ssm {

// The way up through a piece. The sums at its first vertex are not rounded before they go on to the piece above.
template <typename Up>
struct PieceUp : Up {
  using typename Up::acc, typename Up::Row;
  using Up::Up;
  Row top{};

  __device__ void keep(uint32_t vertex, const Row& x, bool exists) {
    Up::keep(vertex, x, exists);
    if (exists) top = x;
  }
  __device__ void work(const HeldSteps<acc>& held, int first, int left, char* chunk) {
    ascend(*this, held, first, left, chunk, this->row, this->popped);
  }
};

// The sums of a piece. `from` is this thread's first channel of the first of them, `distance` leads to the next.
template <typename acc, int N, int kSize>
__device__ void read_sums(const acc* from, int64_t distance, Channels<acc, kSize>& row) {
#pragma unroll
  for (int s = 0; s < kSize / N; ++s) {
    const auto part = read_row<acc, N>(from + s * distance);
#pragma unroll
    for (int c = 0; c < N; ++c) row[s * N + c] = part[c];
  }
}
template <typename acc, int N, int kSize>
__device__ void write_sums(acc* to, int64_t distance, const Channels<acc, kSize>& row, bool really) {
#pragma unroll
  for (int s = 0; s < kSize / N; ++s) write_part<acc, N>(to + s * distance, row, s * N, really);
}

// The way up the spine that finds what the piece does to what passes through it: see TrunkLaunch. It reads what the way
// down reads.
template <typename Down>
struct SpineSums : Down {
  using Down::kBackward, Down::kBoth, Down::kSums, Down::N;
  using typename Down::acc, typename Down::Row;
  Channels<acc, N> through, weight{};  // the product of all weights so far, and the last weight
  Row below{};                         // what the spine adds at its last vertex

  template <typename Tensors>
  __device__ SpineSums(const Tensors& tensors, char* column) : Down(tensors, column) {
#pragma unroll
    for (int c = 0; c < N; ++c) through[c] = 1;
  }
  __device__ void work(const HeldSteps<acc>& held, int first, int left, char* chunk) {
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {
      if (j >= left) break;
      auto v = this->read(chunk, j, held.scalar[first % kHeldSteps + j]);
      if (this->has_root && j == left - 1) v.forget_parent();
#pragma unroll
      for (int c = 0; c < N; ++c) {
        const acc w = weight[c] = v.weight[c], a = through[c];
        if constexpr (kBoth) below[c] += a * (1 - w * w) * v.xi[c];
        if constexpr (kSums == 2) below[N + c] += a * (1 - w * w) * v.grad[c];
        if constexpr (kBackward && !kBoth) below[c] += a * v.grad[c];
        through[c] = a * w;
      }
    }
  }
  // `top` are the sums at the first vertex.
  __device__ void write(acc* sums, int64_t distance, Row top) const {
#pragma unroll
    for (int c = 0; c < N * kSums; ++c) top[c] *= weight[c % N];
    write_row(sums, through, this->t.live);
    write_sums<acc, N>(sums + distance, distance, top, this->t.live);
    write_sums<acc, N>(sums + (1 + kSums) * distance, distance, below, this->t.live);
  }
};

// The way up the spine that adds what came up to its last vertex.
template <typename Down>
struct SpineRepair : Down {
  using Down::Down;
  using Down::kSums, Down::N;
  using typename Down::acc, typename Down::kept_t, typename Down::Row;
  Row coming{};

  __device__ void work(const HeldSteps<acc>& held, int first, int left, char* chunk) {
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {
      if (j >= left) break;
      const auto v = this->read(chunk, j, held.scalar[first % kHeldSteps + j]);
      const uint32_t vertex = held.step[first % kHeldSteps + j].vertex;
      Row x = coming;
#pragma unroll
      for (int c = 0; c < N; ++c) {
        x[c] += v.xi[c];
        if constexpr (kSums == 2) x[N + c] += v.grad[c];
      }
      write_part<kept_t, N>(this->t.kept[vertex], x, 0, this->t.live);
      if constexpr (kSums == 2) write_part<kept_t, N>(this->t.grad_kept[vertex], x, N, this->t.live);
#pragma unroll
      for (int c = 0; c < N * kSums; ++c) coming[c] *= v.weight[c % N];
    }
  }
};

}  // namespace ssm
