// The tree scan as a walk: one warp has some channels of one sample and goes through the tree depth first, backwards for
// the up pass and forwards for the down pass. The sum along a path stays in registers, sums that wait at forks on a stack
// in shared memory, and since the steps are known, the rows of the next steps are on their way while one batch is worked
// on. ξ (and η) are kept in memory between the passes.
#pragma once

#include "tree_scan_rows.cuh"

namespace ssm {

constexpr int kWalkStack = 16;  // more than log2(kLongestWalk)

template <typename Kind>
struct Walk {
  using scalar_t = typename Kind::scalar_t;
  using weight_t = typename Kind::weight_t;
  using acc = typename Kind::acc;
  using kept_t = std::conditional_t<std::is_same_v<scalar_t, weight_t>, scalar_t, acc>;
  static constexpr int N = Kind::kWidth;
  static constexpr bool kBoth = Kind::kBoth, kBackward = Kind::kBackward;
  static constexpr int kBatch = N == 1 ? 16 : 8;  // rows of each tensor in flight at once
  using Row = Channels<acc, N>;

  const uint32_t* steps;
  int length;
  const scalar_t *u, *grad_h;
  const weight_t* weight;
  int64_t u_stride, grad_h_stride, weight_stride, channels;
  kept_t *state, *grad_state;
  scalar_t* output;
  weight_t* grad_weight;
  Row *stack, *grad_stack;  // this thread's, 32 apart
  int lane;
  bool live;  // whether this thread has channels; else it reads the first ones and writes nothing

  struct Batch {
    uint32_t step;  // of one row, a thread each
    Row a[kBatch], w[kBatch], b[kBackward ? kBatch : 1];
  };

  // Steps from `first` on, backwards or forwards; past the end the last one again.
  template <bool kBackwards>
  __device__ uint32_t steps_from(int first) const {
    const int i = min(first + lane % kBatch, length - 1);
    return steps[kBackwards ? length - 1 - i : i];
  }
  __device__ static uint32_t share(uint32_t step, int j) { return __shfl_sync(~0u, step, j); }

  // Up: u, w and g. Down: ξ, w and, backward, η (or g where there was no up pass for it).
  template <bool kUp>
  __device__ void load(Batch& batch, uint32_t step) const {
    batch.step = step;
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int64_t vertex = share(step, j) & kVertexMask;
      batch.w[j] = read_row<acc, N>(weight + vertex * weight_stride);
      if constexpr (kUp) {
        batch.a[j] = read_row<acc, N>(u + vertex * u_stride);
        if constexpr (kBackward && kBoth) batch.b[j] = read_row<acc, N>(grad_h + vertex * grad_h_stride);
      } else {
        batch.a[j] = read_row<acc, N>(state + vertex * channels);
        if constexpr (kBackward && kBoth) batch.b[j] = read_row<acc, N>(grad_state + vertex * channels);
        if constexpr (kBackward && !kBoth) batch.b[j] = read_row<acc, N>(grad_h + vertex * grad_h_stride);
      }
    }
  }

  template <bool kUp, typename Visit>
  __device__ void each_step(const Visit& visit) const {
    Batch batch;
    load<kUp>(batch, steps_from<kUp>(0));
    uint32_t next_steps = steps_from<kUp>(kBatch);
    for (int first = 0; first < length; first += kBatch) {
      Batch next;
      load<kUp>(next, next_steps);
      next_steps = steps_from<kUp>(first + 2 * kBatch);
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const uint32_t step = share(batch.step, j);
        if (first + j < length) visit(step, batch.a[j], batch.w[j], batch.b[kBackward ? j : 0]);
      }
      batch = next;
    }
  }

  // One sum on its way up: what comes in from the children, ξ = own + that, and what goes on.
  __device__ void arrive(uint32_t step, Row& x, const Row& waiting) const {
#pragma unroll
    for (int c = 0; c < N; ++c) {
      if (step & kLeaf) x[c] = 0;
      if (step & kFork) x[c] += waiting[c];
    }
  }

  __device__ void ascend() {
    Row x{}, y{};
    int depth = 0;
    each_step<true>([&](uint32_t step, const Row& own, const Row& w, const Row& grad) {
      if (step & kFork) {
        --depth;
        arrive(step, x, stack[slot(depth)]);
        if constexpr (kBackward && kBoth) arrive(step, y, grad_stack[slot(depth)]);
      } else {
        arrive(step, x, x);
        if constexpr (kBackward && kBoth) arrive(step, y, y);
      }
      const int64_t row = (step & kVertexMask) * channels;
      if constexpr (kBoth || kBackward) {
        pass_on(state + row, own, w, x);
      } else {
        pass_on(output + row, own, w, x);
      }
      if constexpr (kBackward && kBoth) pass_on(grad_state + row, grad, w, y);
      if (step & (kLastChild | kMiddleChild)) {
        if (step & kLastChild) ++depth;
        park(step, stack[slot(depth - 1)], x);
        if constexpr (kBackward && kBoth) park(step, grad_stack[slot(depth - 1)], y);
      }
    });
  }

  __device__ static int slot(int depth) { return (depth & (kWalkStack - 1)) * 32; }

  // ξ = own + x is kept and w ξ becomes x.
  template <typename T>
  __device__ void pass_on(T* keep, const Row& own, const Row& w, Row& x) const {
#pragma unroll
    for (int c = 0; c < N; ++c) x[c] += own[c];
    if (live) write_row(keep, x);
#pragma unroll
    for (int c = 0; c < N; ++c) x[c] *= w[c];
  }

  // The last child of several comes first on the way up.
  __device__ static void park(uint32_t step, Row& waiting, const Row& x) {
#pragma unroll
    for (int c = 0; c < N; ++c) waiting[c] = step & kLastChild ? x[c] : waiting[c] + x[c];
  }

  __device__ void descend() {
    Row h{}, g{};
    int depth = 0;
    bool is_root = true;
    each_step<false>([&](uint32_t step, const Row& xi, const Row& w, const Row& eta) {
      if (step & (kLastChild | kMiddleChild)) {
        if constexpr (kBoth) h = stack[slot(depth - 1)];
        if constexpr (kBackward) g = grad_stack[slot(depth - 1)];
        if (step & kLastChild) --depth;
      }
      const int64_t row = (step & kVertexMask) * channels;
      Row weight_gradient{};
#pragma unroll
      for (int c = 0; c < N; ++c) {
        const acc rest = h[c] - w[c] * xi[c];
        if constexpr (kBackward) {
          const acc grad_rest = kBoth ? g[c] - w[c] * eta[c] : g[c];
          if (!is_root) weight_gradient[c] = (kBoth ? eta[c] * rest : acc(0)) + xi[c] * grad_rest;
          g[c] = is_root ? eta[c] : eta[c] + w[c] * grad_rest;
        }
        h[c] = is_root ? xi[c] : xi[c] + w[c] * rest;
      }
      is_root = false;
      if (live) {
        write_row(output + row, kBackward ? g : h);
        if constexpr (kBackward) write_row(grad_weight + row, weight_gradient);
      }
      if (step & kFork) {
        if constexpr (kBoth) stack[slot(depth)] = h;
        if constexpr (kBackward) grad_stack[slot(depth)] = g;
        ++depth;
      }
    });
  }
};

template <typename Kind>
__global__ void __launch_bounds__(32) tree_walk_kernel(TreeScanLaunch l) {
  using W = Walk<Kind>;
  __shared__ typename W::Row stack[kWalkStack * 32], grad_stack[Kind::kBackward ? kWalkStack * 32 : 1];
  const int lane = threadIdx.x;
  const int64_t sample = blockIdx.x / l.slices;
  const int64_t own_channel = (blockIdx.x % l.slices * 32 + lane) * Kind::kWidth;
  const bool live = own_channel < l.channels;
  const int64_t channel = live ? own_channel : 0, own = sample * l.length * l.channels + channel;
  const auto input = [&](const auto* base, const VertexStrides& stride) { return base + sample * stride.batch + channel; };
  W walk{reinterpret_cast<const uint32_t*>(l.schedule) + sample * ScheduleLayout{l.length}.words(),
      static_cast<int>(l.length),
      input(static_cast<const typename W::scalar_t*>(l.u), l.u_stride),
      input(static_cast<const typename W::scalar_t*>(l.grad_h), l.grad_h_stride),
      input(static_cast<const typename W::weight_t*>(l.weight), l.weight_stride),
      l.u_stride.vertex, l.grad_h_stride.vertex, l.weight_stride.vertex, l.channels,
      static_cast<typename W::kept_t*>(l.state) + own, static_cast<typename W::kept_t*>(l.grad_state) + own,
      static_cast<typename W::scalar_t*>(l.output) + own, static_cast<typename W::weight_t*>(l.grad_weight) + own,
      stack + lane, grad_stack + (Kind::kBackward ? lane : 0), lane, live};
  walk.ascend();
  if constexpr (Kind::kBoth || Kind::kBackward) walk.descend();
}

template <typename Kind>
void launch_walk(TreeScanLaunch l) {
  constexpr int kSlice = 32 * Kind::kWidth;
  l.slices = static_cast<int>((l.channels + kSlice - 1) / kSlice);
  launch_teams(tree_walk_kernel<Kind>, l.batch * l.slices, 1, 32, 0, l);
}

}  // namespace ssm
