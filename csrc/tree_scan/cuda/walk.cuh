// The tree scan as a walk, for one warp and one slice of the channels. The way up keeps ξ (and η) of every vertex in
// memory; the way down makes the results from them.
#pragma once

#include "tree/cuda/walk_kernels.cuh"
#include "tree_scan/cuda/launch.h"

namespace ssm {

// One thread's channels of all tensors.
template <typename Kind>
struct ScanRows {
  using scalar_t = typename Kind::scalar_t;
  using weight_t = typename Kind::weight_t;
  using acc = typename Kind::acc;
  static constexpr bool kIsResult = !Kind::kBoth && !Kind::kBackward;  // whether what is kept is the result
  using kept_t = std::conditional_t<kIsResult || std::is_same_v<scalar_t, weight_t>, scalar_t, acc>;
  static constexpr int N = Kind::kWidth;
  // Sums that go up: ξ and, backward, η. As many come down: h and, backward, G; without both passes, G alone.
  static constexpr int kSums = Kind::kBackward && Kind::kBoth ? 2 : 1;

  template <typename T>
  using Copied = CopiedRows<T, N, Kind::kAligned>;

  Copied<scalar_t> u, grad_h;
  Copied<weight_t> weight;
  Copied<kept_t> state, grad_state;
  VertexRows<kept_t> kept, grad_kept;  // the same, to write
  VertexRows<scalar_t> output;
  VertexRows<weight_t> grad_weight;
  int lane;
  bool live;  // whether this thread has channels; if not, what it computes is not written
};

// What the ways up and down share.
template <typename Kind>
struct ScanPass {
  using Tensors = ScanRows<Kind>;
  using scalar_t = typename Tensors::scalar_t;
  using weight_t = typename Tensors::weight_t;
  using kept_t = typename Tensors::kept_t;
  using acc = typename Tensors::acc;
  static constexpr int N = Tensors::N, kWidth = N, kSums = Tensors::kSums;
  static constexpr bool kBoth = Kind::kBoth, kBackward = Kind::kBackward;
  using Row = Channels<acc, N * kSums>;

  const Tensors& t;
  WaitingRows<Row> waiting;
  Row row{}, popped{};
  bool has_root = true;

  __device__ ScanPass(const Tensors& tensors, char* column) : t(tensors), waiting{column} {}
  __device__ acc scalar(uint32_t) const { return acc(0); }
};

template <typename Kind>
struct ScanUp : ScanPass<Kind> {
  using Base = ScanPass<Kind>;
  using Base::kSums, Base::N, Base::popped, Base::row, Base::t;
  using typename Base::acc, typename Base::kept_t, typename Base::Row, typename Base::scalar_t, typename Base::weight_t;
  using Value = UpValue<acc, N, kSums>;
  using OwnPack = Pack<scalar_t, N>;
  using WeightPack = Pack<weight_t, N>;
  using Layout =
      std::conditional_t<kSums == 2, ChunkLayout<OwnPack, WeightPack, OwnPack>, ChunkLayout<OwnPack, WeightPack>>;
  using Base::Base;

  __device__ void request(char* chunk, const WalkStep* steps) const {
    Layout::template request<0>(chunk, steps, t.u);
    Layout::template request<1>(chunk, steps, t.weight);
    if constexpr (kSums == 2) Layout::template request<2>(chunk, steps, t.grad_h);
  }
  __device__ Value read(char* chunk, int j, acc) const {
    Value value;
    put_part(value.own, 0, *Layout::template at<0>(chunk, j, t.lane));
    put_part(value.weight, 0, *Layout::template at<1>(chunk, j, t.lane));
    if constexpr (kSums == 2) put_part(value.own, N, *Layout::template at<2>(chunk, j, t.lane));
    return value;
  }
  __device__ void keep(uint32_t vertex, const Row& x, bool exists) const {
    const bool counts = t.live && exists;
    write_part<kept_t, N>(t.kept[vertex], x, 0, counts);
    if constexpr (kSums == 2) write_part<kept_t, N>(t.grad_kept[vertex], x, N, counts);
  }
  __device__ void work(const HeldSteps<acc>& held, int first, int left, char* chunk) {
    ascend(*this, held, first, left, chunk, row, popped);
  }
};

// The way down reads ξ and w, and backward η, or the gradient itself where there was no way up for it.
template <typename Kind>
struct ScanDown : ScanPass<Kind> {
  using Base = ScanPass<Kind>;
  using Base::kBackward, Base::kBoth, Base::kSums, Base::N, Base::popped, Base::row, Base::t;
  using typename Base::acc, typename Base::kept_t, typename Base::Row, typename Base::scalar_t, typename Base::weight_t;
  struct Value {
    Channels<acc, N> xi, weight, grad;
    __device__ void forget_parent() { weight = Channels<acc, N>{}; }
  };
  using KeptPack = Pack<kept_t, N>;
  using WeightPack = Pack<weight_t, N>;
  using GradPack = std::conditional_t<kBoth, KeptPack, Pack<scalar_t, N>>;
  using Layout =
      std::conditional_t<kBackward, ChunkLayout<KeptPack, WeightPack, GradPack>, ChunkLayout<KeptPack, WeightPack>>;
  using Base::Base;

  __device__ void request(char* chunk, const WalkStep* steps) const {
    Layout::template request<0>(chunk, steps, t.state);
    Layout::template request<1>(chunk, steps, t.weight);
    if constexpr (kSums == 2) {
      Layout::template request<2>(chunk, steps, t.grad_state);
    } else if constexpr (kBackward) {
      Layout::template request<2>(chunk, steps, t.grad_h);
    }
  }
  __device__ Value read(char* chunk, int j, acc) const {
    Value value;
    put_part(value.xi, 0, *Layout::template at<0>(chunk, j, t.lane));
    put_part(value.weight, 0, *Layout::template at<1>(chunk, j, t.lane));
    if constexpr (kBackward) put_part(value.grad, 0, *Layout::template at<2>(chunk, j, t.lane));
    return value;
  }

  // The results of one vertex from h and G of its parent, which become its own. At the root, the weight, h and G are 0.
  __device__ void descend(uint32_t vertex, int, const Value& v, Row& hg, bool exists) const {
    Channels<acc, N> weight_gradient{};
#pragma unroll
    for (int c = 0; c < N; ++c) {
      const acc w = v.weight[c], xi = v.xi[c];
      if constexpr (!kBackward) {
        hg[c] = xi + w * (hg[c] - w * xi);
      } else if constexpr (kBoth) {
        const acc eta = v.grad[c], rest = hg[c] - w * xi, grad_rest = hg[N + c] - w * eta;
        weight_gradient[c] = eta * rest + xi * grad_rest;
        hg[c] = xi + w * rest;
        hg[N + c] = eta + w * grad_rest;
      } else {
        weight_gradient[c] = xi * hg[c];
        hg[c] = v.grad[c] + w * hg[c];
      }
    }
    const bool counts = t.live && exists;
    write_part<scalar_t, N>(t.output[vertex], hg, kSums == 2 ? N : 0, counts);
    if constexpr (kBackward) write_row(t.grad_weight[vertex], weight_gradient, counts);
  }
  __device__ void work(const HeldSteps<acc>& held, int first, int left, char* chunk) {
    ssm::descend(*this, held, first, left, chunk, row, popped);
  }
};

// What walk_kernels.cuh asks of a scan.
template <typename Kind>
struct TreeScan {
  using Launch = TreeScanLaunch;
  using Up = ScanUp<Kind>;
  using Down = ScanDown<Kind>;
  using Rows = ScanRows<Kind>;
  static constexpr bool kGoesDown = Kind::kBoth || Kind::kBackward;

  __device__ static Rows rows(const Launch& l, int64_t sample, int64_t slice) {
    using scalar_t = typename Rows::scalar_t;
    using weight_t = typename Rows::weight_t;
    using kept_t = typename Rows::kept_t;
    const int lane = threadIdx.x;
    const int64_t first = slice * kWarp * Kind::kWidth, own_channel = first + lane * Kind::kWidth;
    const bool live = own_channel < l.channels;
    const int64_t sample_rows = sample * l.length * l.channels, own = sample_rows + (live ? own_channel : 0);
    const auto input = [&](const auto* base, const VertexStrides& stride) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(base)>>;
      return typename Rows::template Copied<T>(base + sample * stride.batch, stride.vertex, first, l.channels);
    };
    const auto kept = [&](const auto* base) { return input(base + sample_rows, {0, l.channels}); };
    const auto written = [&](auto* base) {
      return VertexRows<std::remove_pointer_t<decltype(base)>>{base + own, l.channels};
    };
    return {input(static_cast<const scalar_t*>(l.u), l.u_stride),
        input(static_cast<const scalar_t*>(l.grad_h), l.grad_h_stride),
        input(static_cast<const weight_t*>(l.weight), l.weight_stride), kept(static_cast<const kept_t*>(l.state)),
        kept(static_cast<const kept_t*>(l.grad_state)), written(static_cast<kept_t*>(l.state)),
        written(static_cast<kept_t*>(l.grad_state)), written(static_cast<scalar_t*>(l.output)),
        written(static_cast<weight_t*>(l.grad_weight)), lane, live};
  }
  __device__ static void finish(const Launch&, const Rows&, const Down&, int64_t, int64_t, int) {}
};

template <typename Kind>
void launch_scan(TreeScanLaunch l) {
  constexpr int kSlice = kWarp * Kind::kWidth;
  l.slices = static_cast<int>((l.channels + kSlice - 1) / kSlice);
  launch_walk<TreeScan<Kind>>("tree_scan", l);
}

// Picks the kernel of one pair of types.
template <typename scalar_t, typename weight_t>
void launch_types(const TreeScanLaunch& l) {
  const auto pick = [&](auto both, auto backward) {
    with_walk_shape<scalar_t>(l, [&](auto width, auto aligned) {
      constexpr int kWidth = decltype(width)::value;
      constexpr bool kAligned = decltype(aligned)::value, kBoth = decltype(both)::value,
                     kBackward = decltype(backward)::value;
      launch_scan<ScanKind<scalar_t, weight_t, kWidth, kAligned, kBoth, kBackward>>(l);
    });
  };
  const auto pick_both = [&](auto both) { l.backward ? pick(both, std::true_type()) : pick(both, std::false_type()); };
  l.both ? pick_both(std::true_type()) : pick_both(std::false_type());
}

}  // namespace ssm
