// The tree scan as a walk: one warp has some channels of one sample and goes through the tree depth first, backwards
// for the up pass and forwards for the down pass. The sum along a path stays in registers, sums that wait at forks on a
// stack in shared memory, and since the steps are known, the rows of the next steps are on their way while one batch is
// worked on. ξ (and η) are kept in memory between the passes.
#pragma once

#include "tree_scan_rows.cuh"

namespace ssm {

constexpr int kWalkStack = 16;  // more than log2(kLongestWalk)

// What waits at forks. The newest entry is in registers, so that taking it waits for nothing; the others are this
// thread's column of shared memory.
template <typename Row>
struct WaitingRows {
  uint32_t column;  // its address in shared memory; entries are 32 rows apart
  Row top{};
  int depth = 0;

  __device__ explicit WaitingRows(const Row* stack) : column(static_cast<uint32_t>(__cvta_generic_to_shared(stack))) {
    asm volatile("" : "+r"(column));  // computed once, not at every access
  }
  __device__ Row& below() const {
    const uint32_t entry = column + (depth & (kWalkStack - 1)) * 32 * static_cast<uint32_t>(sizeof(Row));
    return *static_cast<Row*>(__cvta_shared_to_generic(entry));
  }
  __device__ void push(const Row& row) {
    below() = top;
    top = row;
    ++depth;
  }
  __device__ Row pop() {
    const Row row = top;
    --depth;
    top = below();
    return row;
  }
};

// The rows of a tensor by vertex. The distance in bytes has 32 bits, so that an address is one multiplication.
template <typename T>
struct VertexRows {
  T* base;
  uint32_t bytes;
  __device__ T* operator[](uint32_t vertex) const {
    using byte_t = std::conditional_t<std::is_const_v<T>, const char, char>;
    return reinterpret_cast<T*>(reinterpret_cast<byte_t*>(base) + static_cast<uint64_t>(vertex) * bytes);
  }
};

template <typename Kind>
struct Walk {
  using scalar_t = typename Kind::scalar_t;
  using weight_t = typename Kind::weight_t;
  using acc = typename Kind::acc;
  using kept_t = std::conditional_t<std::is_same_v<scalar_t, weight_t>, scalar_t, acc>;
  static constexpr int N = Kind::kWidth;
  static constexpr bool kBoth = Kind::kBoth, kBackward = Kind::kBackward;
  // Rows of each tensor in flight at any time: as many as registers hold, fewer where many warps share a
  // multiprocessor.
  static constexpr int kBytes = sizeof(Pack<weight_t, N>);
  static constexpr int kAhead = kBytes > 8 ? 8 : kBytes > 4 || (kBackward && N > 1) ? 16 : 32;
  using Row = Channels<acc, N>;

  const uint32_t* steps;
  int length;
  VertexRows<const scalar_t> u, grad_h;
  VertexRows<const weight_t> weight;
  VertexRows<kept_t> state, grad_state;
  VertexRows<scalar_t> output;
  VertexRows<weight_t> grad_weight;
  Row *stack, *grad_stack;  // this thread's columns
  int lane;
  bool live;  // whether this thread has channels; else it reads the first ones and writes nothing

  // The rows of one step, as they are in memory: to convert them would be to wait for them. Up: u, w and g. Down: ξ, w
  // and, backward, η, or g where there was no up pass for it.
  template <bool kUp>
  struct Rows {
    std::conditional_t<kUp, Pack<scalar_t, N>, Pack<kept_t, N>> own;
    Pack<weight_t, N> weight;
    std::conditional_t<kUp || !kBoth, Pack<scalar_t, N>, Pack<kept_t, N>> grad;
  };

  template <typename T>
  __device__ static Pack<T, N> read(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
  }
  template <typename T>
  __device__ static Row row_of(const Pack<T, N>& pack) {
    Row row;
#pragma unroll
    for (int c = 0; c < N; ++c) row[c] = static_cast<acc>(pack.value[c]);
    return row;
  }

  template <bool kUp>
  __device__ Rows<kUp> load(uint32_t step) const {
    const uint32_t vertex = step & kVertexMask;
    Rows<kUp> rows;
    rows.weight = read(weight[vertex]);
    if constexpr (kUp) {
      rows.own = read(u[vertex]);
      if constexpr (kBackward && kBoth) rows.grad = read(grad_h[vertex]);
    } else {
      rows.own = read<kept_t>(state[vertex]);
      if constexpr (kBackward && kBoth) rows.grad = read<kept_t>(grad_state[vertex]);
      if constexpr (kBackward && !kBoth) rows.grad = read(grad_h[vertex]);
    }
    return rows;
  }

  // kAhead steps from `first` on, a thread each, backwards or forwards; past the end the last one again.
  template <bool kBackwards>
  __device__ uint32_t steps_from(int first) const {
    const int i = min(first + lane % kAhead, length - 1);
    return steps[kBackwards ? length - 1 - i : i];
  }
  __device__ static uint32_t share(uint32_t step, int j) { return __shfl_sync(~0u, step, j); }

  // Each step's rows are asked for kAhead steps before its turn.
  template <bool kUp, typename Visit>
  __device__ void each_step(const Visit& visit) const {
    uint32_t now = steps_from<kUp>(0), next = steps_from<kUp>(kAhead);
    Rows<kUp> rows[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) rows[j] = load<kUp>(share(now, j));
    for (int first = 0; first < length; first += kAhead) {
      const uint32_t after = steps_from<kUp>(first + 2 * kAhead);
      uint32_t step = share(now, 0), coming = share(next, 0);
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const uint32_t step_after = share(now, (j + 1) % kAhead), coming_after = share(next, (j + 1) % kAhead);
        if (first + j < length) visit(step, rows[j]);
        rows[j] = load<kUp>(coming);  // into the registers that are free now
        step = step_after;
        coming = coming_after;
      }
      now = next;
      next = after;
    }
  }

  __device__ void ascend() {
    Row x{}, y{};
    WaitingRows<Row> waiting(stack), grad_waiting(grad_stack);
    each_step<true>([&](uint32_t step, const Rows<true>& rows) {
      const Row w = row_of(rows.weight);
      if (step & kLeaf) x = y = Row{};
      if (step & kFork) {
        add(x, waiting.pop());
        if constexpr (kBackward && kBoth) add(y, grad_waiting.pop());
      }
      const uint32_t vertex = step & kVertexMask;
      if constexpr (kBoth || kBackward) {
        pass_on(state[vertex], row_of(rows.own), w, x);
      } else {
        pass_on(output[vertex], row_of(rows.own), w, x);
      }
      if constexpr (kBackward && kBoth) pass_on(grad_state[vertex], row_of(rows.grad), w, y);
      if (step & (kLastChild | kMiddleChild)) {
        park(step, waiting, x);
        if constexpr (kBackward && kBoth) park(step, grad_waiting, y);
      }
    });
  }

  __device__ static void add(Row& to, const Row& other) {
#pragma unroll
    for (int c = 0; c < N; ++c) to[c] += other[c];
  }

  // x from the children becomes ξ = own + x, which is kept, and then w ξ.
  template <typename T>
  __device__ void pass_on(T* keep, const Row& own, const Row& w, Row& x) const {
    add(x, own);
    if (live) write_row(keep, x);
#pragma unroll
    for (int c = 0; c < N; ++c) x[c] *= w[c];
  }

  // The last child of several comes first on the way up.
  __device__ static void park(uint32_t step, WaitingRows<Row>& waiting, const Row& x) {
    if (step & kLastChild) {
      waiting.push(x);
    } else {
      add(waiting.top, x);
    }
  }

  __device__ void descend() {
    Row h{}, g{};
    WaitingRows<Row> waiting(stack), grad_waiting(grad_stack);
    bool is_root = true;
    each_step<false>([&](uint32_t step, const Rows<false>& rows) {
      if (step & (kLastChild | kMiddleChild)) {
        if constexpr (kBoth) h = step & kLastChild ? waiting.pop() : waiting.top;
        if constexpr (kBackward) g = step & kLastChild ? grad_waiting.pop() : grad_waiting.top;
      }
      step_down(step, rows, is_root, h, g);
      is_root = false;
      if (step & kFork) {
        if constexpr (kBoth) waiting.push(h);
        if constexpr (kBackward) grad_waiting.push(g);
      }
    });
  }

  // The results of one vertex from h and G of its parent, which become its own.
  __device__ void step_down(uint32_t step, const Rows<false>& rows, bool is_root, Row& h, Row& g) const {
    const uint32_t vertex = step & kVertexMask;
    const Row xi = row_of(rows.own), w = row_of(rows.weight);
    Row weight_gradient{}, eta{};
    if constexpr (kBackward) eta = row_of(rows.grad);
#pragma unroll
    for (int c = 0; c < N; ++c) {
      const acc rest = h[c] - w[c] * xi[c];
      if constexpr (kBackward) {
        const acc grad_rest = kBoth ? g[c] - w[c] * eta[c] : g[c];
        weight_gradient[c] = is_root ? acc(0) : (kBoth ? eta[c] * rest : acc(0)) + xi[c] * grad_rest;
        g[c] = is_root ? eta[c] : eta[c] + w[c] * grad_rest;
      }
      h[c] = is_root ? xi[c] : xi[c] + w[c] * rest;
    }
    if (!live) return;
    write_row(output[vertex], kBackward ? g : h);
    if constexpr (kBackward) write_row(grad_weight[vertex], weight_gradient);
  }
};

template <typename Kind>
__global__ void __launch_bounds__(32) tree_walk_kernel(TreeScanLaunch l) {
  using W = Walk<Kind>;
  __shared__ typename W::Row stack[kWalkStack * 32], grad_stack[Kind::kBackward ? kWalkStack * 32 : 1];
  const int lane = threadIdx.x;
  const int64_t sample = blockIdx.x / l.slices, words = ScheduleLayout{l.length, true}.words();
  const int64_t own_channel = (blockIdx.x % l.slices * 32 + lane) * Kind::kWidth;
  const bool live = own_channel < l.channels;
  const int64_t channel = live ? own_channel : 0, own = sample * l.length * l.channels + channel;
  const auto input = [&](const auto* base, const VertexStrides& stride) {
    return VertexRows<std::remove_pointer_t<decltype(base)>>{
        base + sample * stride.batch + channel, static_cast<uint32_t>(stride.vertex * sizeof(*base))};
  };
  const auto kept = [&](auto* base) {
    return VertexRows<std::remove_pointer_t<decltype(base)>>{
        base + own, static_cast<uint32_t>(l.channels * sizeof(*base))};
  };
  using scalar_t = typename W::scalar_t;
  using weight_t = typename W::weight_t;
  using kept_t = typename W::kept_t;
  W walk{reinterpret_cast<const uint32_t*>(l.schedule) + sample * words, static_cast<int>(l.length),
      input(static_cast<const scalar_t*>(l.u), l.u_stride),
      input(static_cast<const scalar_t*>(l.grad_h), l.grad_h_stride),
      input(static_cast<const weight_t*>(l.weight), l.weight_stride), kept(static_cast<kept_t*>(l.state)),
      kept(static_cast<kept_t*>(l.grad_state)), kept(static_cast<scalar_t*>(l.output)),
      kept(static_cast<weight_t*>(l.grad_weight)), stack + lane, grad_stack + (Kind::kBackward ? lane : 0), lane, live};
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
