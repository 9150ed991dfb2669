// The tree scan of a selective state space model as a walk. The source Δ·B·x and the weight exp(Δ·A), with Δ =
// softplus(delta + bias), are made of the rows as they are read, both ways and in the backward pass, and never written.
#pragma once

#include "common/cuda/column_sums.cuh"
#include "common/cuda/reduce.cuh"
#include "selective_tree_scan/cuda/launch.h"
#include "tree/cuda/walk_kernels.cuh"

namespace ssm {

// kIsAligned: whether every row begins at a multiple of 16 bytes.
template <typename scalar, int kVector, bool kIsAligned, bool kIsBackward>
struct SelectiveKind {
  using scalar_t = scalar;
  using acc = acc_t<scalar>;
  static constexpr int kWidth = kVector;
  static constexpr bool kAligned = kIsAligned, kBackward = kIsBackward;
};

// The derivative of softplus. x is in units of Δ.
template <typename scalar_t>
__device__ __forceinline__ acc_t<scalar_t> sigmoid(acc_t<scalar_t> x) {
  using acc = acc_t<scalar_t>;
  const acc e = decay(-(x < 0 ? -x : x) * decay_rate<scalar_t>(acc(1))), r = reciprocal(1 + e);
  return x < 0 ? e * r : r;
}

// One thread's channels of all tensors.
template <typename Kind>
struct SelectiveRows {
  using scalar_t = typename Kind::scalar_t;
  using acc = typename Kind::acc;
  static constexpr int N = Kind::kWidth;

  using Copied = CopiedRows<scalar_t, N, Kind::kAligned>;

  Copied x, delta, grad_h, state, grad_state;
  VertexRows<const scalar_t> B;
  VertexRows<scalar_t> kept, grad_kept, output, grad_delta;  // to write; kept and grad_kept are state and grad_state
  acc* grad_B;                                               // of this sample and slice
  Channels<acc, N> rate, bias;                               // A, and the bias of delta in units of Δ
  int lane;
  bool live;  // whether this thread has channels; if not, what it computes is not written

  // delta + bias in units of Δ, softplus of it, and the weight.
  struct Gate {
    acc z, step, weight;
  };
  __device__ Gate gate(int c, scalar_t value) const {
    const acc z = biased<scalar_t>(static_cast<acc>(value), bias[c]), step = softplus<scalar_t>(z);
    return {z, step * kUnit<scalar_t>, decay(step * decay_rate<scalar_t>(rate[c]))};
  }
};

template <typename Kind>
struct SelectivePass {
  using Tensors = SelectiveRows<Kind>;
  using scalar_t = typename Kind::scalar_t;
  using acc = typename Kind::acc;
  using kept_t = scalar_t;
  static constexpr int N = Kind::kWidth, kWidth = N, kSums = Kind::kBackward ? 2 : 1;
  static constexpr bool kBoth = true, kBackward = Kind::kBackward;
  using Row = Channels<acc, N * kSums>;
  using RowPack = Pack<scalar_t, N>;

  const Tensors& t;
  WaitingRows<Row> waiting;
  Row row{}, popped{};
  bool has_root = true;

  __device__ SelectivePass(const Tensors& tensors, char* column) : t(tensors), waiting{column} {}
};

template <typename Kind>
struct SelectiveUp : SelectivePass<Kind> {
  using Base = SelectivePass<Kind>;
  using Base::kSums, Base::N, Base::popped, Base::row, Base::t;
  using typename Base::acc, typename Base::Row, typename Base::RowPack, typename Base::scalar_t;
  using Value = UpValue<acc, N, kSums>;
  using Layout = std::conditional_t<kSums == 2, ChunkLayout<RowPack, RowPack, RowPack>, ChunkLayout<RowPack, RowPack>>;
  using Base::Base;

  __device__ acc scalar(uint32_t vertex) const { return static_cast<acc>(*t.B[vertex]); }
  __device__ void request(char* chunk, const WalkStep* steps) const {
    Layout::template request<0>(chunk, steps, t.x);
    Layout::template request<1>(chunk, steps, t.delta);
    if constexpr (kSums == 2) Layout::template request<2>(chunk, steps, t.grad_h);
  }
  __device__ Value read(char* chunk, int j, acc B) const {
    const RowPack x = *Layout::template at<0>(chunk, j, t.lane), delta = *Layout::template at<1>(chunk, j, t.lane);
    Value value;
#pragma unroll
    for (int c = 0; c < N; ++c) {
      const auto gate = t.gate(c, delta.value[c]);
      value.weight[c] = gate.weight;
      value.own[c] = gate.step * B * static_cast<acc>(x.value[c]);
    }
    if constexpr (kSums == 2) put_part(value.own, N, *Layout::template at<2>(chunk, j, t.lane));
    return value;
  }
  __device__ void keep(uint32_t vertex, const Row& x, bool exists) const {
    const bool counts = t.live && exists;
    write_part<scalar_t, N>(t.kept[vertex], x, 0, counts);
    if constexpr (kSums == 2) write_part<scalar_t, N>(t.grad_kept[vertex], x, N, counts);
  }
  __device__ void work(const HeldSteps<acc>& held, int first, int left, char* chunk) {
    ascend(*this, held, first, left, chunk, row, popped);
  }
};

template <typename Kind>
struct SelectiveDown : SelectivePass<Kind> {
  using Base = SelectivePass<Kind>;
  using Base::N, Base::popped, Base::row, Base::t;
  using typename Base::acc, typename Base::Row, typename Base::RowPack, typename Base::scalar_t;
  struct Value {
    Channels<acc, N> xi, weight;
    __device__ void forget_parent() { weight = Channels<acc, N>{}; }
  };
  using Layout = ChunkLayout<RowPack, RowPack>;
  using Base::Base;

  __device__ acc scalar(uint32_t) const { return acc(0); }
  __device__ void request(char* chunk, const WalkStep* steps) const {
    Layout::template request<0>(chunk, steps, t.state);
    Layout::template request<1>(chunk, steps, t.delta);
  }
  __device__ Value read(char* chunk, int j, acc) const {
    const RowPack delta = *Layout::template at<1>(chunk, j, t.lane);
    Value value;
    put_part(value.xi, 0, *Layout::template at<0>(chunk, j, t.lane));
#pragma unroll
    for (int c = 0; c < N; ++c) value.weight[c] = t.gate(c, delta.value[c]).weight;
    return value;
  }
  __device__ void descend(uint32_t vertex, int, const Value& v, Row& h, bool exists) const {
#pragma unroll
    for (int c = 0; c < N; ++c) h[c] = v.xi[c] + v.weight[c] * (h[c] - v.weight[c] * v.xi[c]);
    write_row(t.output[vertex], h, t.live && exists);
  }
  __device__ void work(const HeldSteps<acc>& held, int first, int left, char* chunk) {
    ssm::descend(*this, held, first, left, chunk, row, popped);
  }
};

// The way down with h and G, to every gradient. With u = Δ B x and w = exp(Δ A): ∂Δ = A w ∂w + B x G, ∂x = Δ B G,
// ∂B = Σ_channels Δ x G, ∂A = Σ_vertices Δ w ∂w, and ∂delta = sigmoid(delta + bias) ∂Δ, whose sum is the bias's.
template <typename Kind>
struct SelectiveGradients : SelectivePass<Kind> {
  using Base = SelectivePass<Kind>;
  using Base::N, Base::popped, Base::row, Base::t;
  using typename Base::acc, typename Base::Row, typename Base::RowPack, typename Base::scalar_t;
  struct Value {
    Channels<acc, N> xi, grad, z, step, weight;  // grad: η
    RowPack x;
    acc B;
    __device__ void forget_parent() { weight = Channels<acc, N>{}; }
  };
  using Layout = ChunkLayout<RowPack, RowPack, RowPack, RowPack>;
  using Base::Base;

  Channels<acc, N> grad_rate{}, grad_bias{}, chunk_rate, chunk_bias;  // sums of all steps and of the chunk's
  acc grad_B[kChunk];                                                 // this thread's part of the chunk's

  __device__ acc scalar(uint32_t vertex) const { return static_cast<acc>(*t.B[vertex]); }
  __device__ void request(char* chunk, const WalkStep* steps) const {
    Layout::template request<0>(chunk, steps, t.state);
    Layout::template request<1>(chunk, steps, t.delta);
    Layout::template request<2>(chunk, steps, t.grad_state);
    Layout::template request<3>(chunk, steps, t.x);
  }
  __device__ Value read(char* chunk, int j, acc B) const {
    const RowPack delta = *Layout::template at<1>(chunk, j, t.lane);
    Value value;
    put_part(value.xi, 0, *Layout::template at<0>(chunk, j, t.lane));
    put_part(value.grad, 0, *Layout::template at<2>(chunk, j, t.lane));
    value.x = *Layout::template at<3>(chunk, j, t.lane);
    value.B = B;
#pragma unroll
    for (int c = 0; c < N; ++c) {
      const auto gate = t.gate(c, delta.value[c]);
      value.z[c] = gate.z;
      value.step[c] = gate.step;
      value.weight[c] = gate.weight;
    }
    return value;
  }
  __device__ void descend(uint32_t vertex, int j, const Value& v, Row& hg, bool exists) {
    Channels<acc, N> grad_x, grad_delta;
    acc dot = 0;
#pragma unroll
    for (int c = 0; c < N; ++c) {
      const acc w = v.weight[c], xi = v.xi[c], eta = v.grad[c], step = v.step[c], x = static_cast<acc>(v.x.value[c]);
      const acc rest = hg[c] - w * xi, grad_rest = hg[N + c] - w * eta;
      hg[c] = xi + w * rest;
      const acc g = hg[N + c] = eta + w * grad_rest;
      const acc exponent = w * (eta * rest + xi * grad_rest);  // gradient of Δ A
      grad_x[c] = step * v.B * g;
      dot += step * x * g;
      grad_delta[c] = sigmoid<scalar_t>(v.z[c]) * (t.rate[c] * exponent + v.B * x * g);
      chunk_rate[c] += exists ? step * exponent : 0;
      chunk_bias[c] += exists ? grad_delta[c] : 0;
    }
    const bool counts = t.live && exists;
    grad_B[j] = counts ? dot : 0;
    write_row(t.output[vertex], grad_x, counts);
    write_row(t.grad_delta[vertex], grad_delta, counts);
  }
  __device__ void work(const HeldSteps<acc>& held, int first, int left, char* chunk) {
    chunk_rate = chunk_bias = Channels<acc, N>{};
    ssm::descend(*this, held, first, left, chunk, row, popped);
#pragma unroll
    for (int c = 0; c < N; ++c) {
      grad_rate[c] += chunk_rate[c];
      grad_bias[c] += chunk_bias[c];
    }
    const acc sum = sums_over_warp(grad_B);  // of step `lane`
    if (t.lane < kChunk && t.lane < left) t.grad_B[held.step[first % kHeldSteps + t.lane].vertex] = sum;
  }
};

template <typename Kind>
using SelectiveDescent = std::conditional_t<Kind::kBackward, SelectiveGradients<Kind>, SelectiveDown<Kind>>;

// The rows of one sample, from a slice's first channel on.
template <typename Kind>
__device__ SelectiveRows<Kind> selective_rows(const SelectiveTreeScanLaunch& l, int64_t sample, int64_t slice) {
  using Rows = SelectiveRows<Kind>;
  using scalar_t = typename Kind::scalar_t;
  using acc = typename Kind::acc;
  const int64_t first = slice * kWarp * Kind::kWidth, own_channel = first + threadIdx.x * Kind::kWidth;
  const bool live = own_channel < l.channels;
  const int64_t channel = live ? own_channel : 0, rows = sample * l.length * l.channels;
  const auto input = [&](const void* base, const VertexStrides& stride) {
    return typename Rows::Copied(
        static_cast<const scalar_t*>(base) + sample * stride.batch, stride.vertex, first, l.channels);
  };
  const VertexStrides contiguous{l.length * l.channels, l.channels};
  const auto written = [&](void* base) {
    return VertexRows<scalar_t>{static_cast<scalar_t*>(base) + rows + channel, l.channels};
  };
  Channels<acc, Kind::kWidth> rate, bias;
#pragma unroll
  for (int c = 0; c < Kind::kWidth; ++c) {
    rate[c] = static_cast<const acc*>(l.A)[channel + c];
    bias[c] = static_cast<const acc*>(l.delta_bias)[channel + c] / kUnit<scalar_t>;
  }
  return {input(l.x, l.x_stride), input(l.delta, l.delta_stride), input(l.grad_h, l.grad_h_stride),
      input(l.state, contiguous), input(l.grad_state, contiguous),
      {static_cast<const scalar_t*>(l.B) + sample * l.B_stride.batch, l.B_stride.vertex}, written(l.state),
      written(l.grad_state), written(l.output), written(l.grad_delta),
      static_cast<acc*>(l.grad_B) + (slice * l.batch + sample) * l.length, rate, bias, static_cast<int>(threadIdx.x),
      live};
}

// What walk_kernels.cuh asks of a scan.
template <typename Kind>
struct SelectiveTreeScan {
  using Launch = SelectiveTreeScanLaunch;
  using Up = SelectiveUp<Kind>;
  using Down = SelectiveDescent<Kind>;
  static constexpr bool kGoesDown = true;

  __device__ static SelectiveRows<Kind> rows(const Launch& l, int64_t sample, int64_t slice) {
    return selective_rows<Kind>(l, sample, slice);
  }
  __device__ static void finish(
      const Launch& l, const SelectiveRows<Kind>& rows, const Down& down, int64_t sample, int64_t slice, int piece) {
    if constexpr (Kind::kBackward) {
      using acc = typename Kind::acc;
      if (!rows.live) return;
      const int64_t own =
          2 * (sample * l.most_pieces() + piece) * l.channels + (slice * kWarp + threadIdx.x) * Kind::kWidth;
      write_row(static_cast<acc*>(l.of_parameters) + own, down.grad_rate);
      write_row(static_cast<acc*>(l.of_parameters) + own + l.channels, down.grad_bias);
    }
  }
};

template <typename scalar_t>
void launch_selective_types(const SelectiveTreeScanLaunch& l) {
  const auto pick = [&](auto backward) {
    with_walk_shape<scalar_t>(l, [&](auto width, auto aligned) {
      constexpr int kWidth = decltype(width)::value;
      constexpr bool kAligned = decltype(aligned)::value, kBackward = decltype(backward)::value;
      launch_walk<SelectiveTreeScan<SelectiveKind<scalar_t, kWidth, kAligned, kBackward>>>("selective_tree_scan", l);
    });
  };
  l.backward ? pick(std::true_type()) : pick(std::false_type());
}

template <typename scalar_t>
void launch_sums_of_pieces(const SelectiveTreeScanLaunch& l) {
  launch_column_sums<acc_t<scalar_t>, SelectiveTreeScanParams>(
      "selective_tree_scan", {l.of_parameters, l.batch * l.most_pieces(), 2 * l.channels, {l.channels, 2 * l.channels},
                                 {l.grad_A, l.grad_delta_bias}});
}

}  // namespace ssm
