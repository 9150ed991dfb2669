// The tree scan along heavy paths. A worker, kLanes threads side by side along the channels, takes a segment: up to
// kSegment vertices of a path, all of whose loads are in flight at once. Both passes read u and w again rather than
// keep ξ: the up pass leaves no more than what each path hands on.
//
// Up, rounds from the last to the first. With x what comes in at the bottom of a segment, ξ = u + Σ messages, and each
// vertex hands w ξ on: the segment hands on B + A x, A = ∏ w. A chain's segments first find A and B, then one worker
// goes through them and leaves x for each.
// Down, rounds from the first to the last, h = ξ + w (h_parent - w ξ). Through a segment, h at its bottom is
// A h_in + Q + (1 - A²) x, Q = Σ a (1 - w²) ξ for x = 0, with a the product of the weights below: Σ (a w⁰)² (1 - w²)
// telescopes to 1 - A². So chains are gone through without reading u and w, and then every segment knows its h_in.
#pragma once

#include "tree_scan_rows.cuh"

namespace ssm {

constexpr int kScanThreads = 256;

// One worker on one slice of one sample.
template <typename Kind>
struct Walker {
  using scalar_t = typename Kind::scalar_t;
  using weight_t = typename Kind::weight_t;
  using acc = typename Kind::acc;
  static constexpr int N = Kind::kWidth;
  static constexpr bool kBoth = Kind::kBoth, kBackward = Kind::kBackward;
  static constexpr int kBatch = 4;  // segments of a chain whose loads are in flight at once
  using Row = Channels<acc, N>;

  const VertexRecord* records;
  const int* lights;
  const Segment* segments;
  const Chain* chains;
  const scalar_t *u, *grad_h;
  const weight_t* weight;
  int64_t u_stride, grad_h_stride, weight_stride, channels;
  acc *state, *grad_state;
  scalar_t* output;
  weight_t* grad_weight;
  int lane;
  bool live;  // whether this thread has channels

  // One record for each thread, of a segment's vertices from the top.
  struct Run {
    Segment segment;
    VertexRecord record;
  };

  struct Values {
    Row xi[kSegment], eta[kBackward ? kSegment : 1], w[kSegment];
  };

  // The workers of a warp stay together: all of its threads call what shares or votes.
  __device__ static int share(int value, int from) { return __shfl_sync(~0u, value, from, kLanes); }
  __device__ static bool any(bool condition) { return __any_sync(~0u, condition) != 0; }

  template <typename T>
  __device__ static Row read(const T* from) {
    return read_row<acc, N>(from);
  }
  template <typename T>
  __device__ static void write(T* to, const Row& row) {
    write_row(to, row);
  }
  __device__ static Row constant(acc value) {
    Row row;
#pragma unroll
    for (int c = 0; c < N; ++c) row[c] = value;
    return row;
  }
  __device__ acc* at(acc* rows, int vertex) const { return rows + vertex * channels; }

  __device__ Run fetch(int index, int end) const {
    Run run{{0, 0}, {0, -1, 0, 0}};
    if (index < end) run.segment = segments[index];
    if (lane < run.segment.length()) run.record = records[run.segment.begin + lane];
    return run;
  }

  __device__ static void add(Row& to, const Row& other) {
#pragma unroll
    for (int c = 0; c < N; ++c) to[c] += other[c];
  }

  // u, g and w of a segment, and the messages of the light children in u and g. Where the segment ends early, u = g = 0
  // and w = 1 let through what comes.
  __device__ void load(const Run& run, int length, Values& v) const {
#pragma unroll
    for (int j = 0; j < kSegment; ++j) {
      const int64_t vertex = share(run.record.vertex, j);
      v.xi[j] = constant(0);
      v.w[j] = constant(1);
      if constexpr (kBackward) v.eta[j] = constant(0);
      if (j >= length) continue;
      v.xi[j] = read(u + vertex * u_stride);
      v.w[j] = read(weight + vertex * weight_stride);
      if constexpr (kBackward) v.eta[j] = read(grad_h + vertex * grad_h_stride);
    }
    if (run.segment.begin == 0 && length > 0) v.w[0] = constant(0);  // the root
#pragma unroll
    for (int j = 0; j < kSegment; ++j) {
      const int light = share(run.record.first_light, j);
      if (j < length && light >= 0) add_message(v, j, light);
    }
    if (!any(run.record.lights > 1)) return;
#pragma unroll
    for (int j = 0; j < kSegment; ++j) {
      const int begin = share(run.record.lights_begin, j), count = share(run.record.lights, j);
      if (j >= length) continue;
      for (int k = 1; k < count; ++k) add_message(v, j, lights[begin + k]);
    }
  }

  __device__ void add_message(Values& v, int j, int light) const {
    add(v.xi[j], read(at(state, light)));
    if constexpr (kBackward && kBoth) add(v.eta[j], read(at(grad_state, light)));
  }

  // First step of the up pass: what a segment does to what comes in at its bottom.
  __device__ void summarise(const Run& run) const {
    const int length = live ? run.segment.length() : 0;
    Values v;
    load(run, length, v);
    Row a = constant(1), x = constant(0), q = constant(0), y = constant(0), p = constant(0);
#pragma unroll
    for (int j = kSegment - 1; j >= 0; --j) {
      if (!any(j < length)) continue;
#pragma unroll
      for (int c = 0; c < N; ++c) {
        const acc w = v.w[j][c], xi = v.xi[j][c] + x[c], through = a[c] * (1 - w * w);
        if constexpr (kBoth) q[c] += through * xi;
        if constexpr (kBackward && kBoth) {
          const acc eta = v.eta[j][c] + y[c];
          p[c] += through * eta;
          y[c] = w * eta;
        }
        if constexpr (kBackward && !kBoth) p[c] += a[c] * v.eta[j][c];
        x[c] = w * xi;
        a[c] *= w;
      }
    }
    const int top = share(run.record.vertex, 0), second = share(run.record.vertex, 1);
    const int third = share(run.record.vertex, 2), fourth = share(run.record.vertex, 3);
    if (length == 0) return;
    if (!run.segment.chained()) {
      write(at(state, top), x);
      if constexpr (kBackward && kBoth) write(at(grad_state, top), y);
      return;
    }
    write(at(state, second), a);
    write(at(state, third), x);
    if constexpr (kBoth) write(at(state, fourth), q);
    if constexpr (kBackward && kBoth) write(at(grad_state, third), y);
    if constexpr (kBackward) write(at(grad_state, fourth), p);
  }

  // The vertex at `place` from the top of each of kBatch segments, one to a thread; 0 where there is none.
  __device__ int vertex_of(int segment, bool exists, int place) const {
    return exists ? records[segments[segment].begin + place].vertex : 0;
  }

  // Second step of the up pass, one chain from its bottom to its top: x of every segment in the place of B.
  __device__ void climb(const Chain& chain) const {
    Row x = constant(0), y = constant(0);
    for (int k = chain.segments - 1; any(k >= 0); k -= kBatch) {
      const bool exists = lane < kBatch && lane <= k;
      const int second = vertex_of(chain.first_segment + k - lane, exists, 1);
      const int third = vertex_of(chain.first_segment + k - lane, exists, 2);
      Row a[kBatch], b[kBatch], b_grad[kBatch];
      int row[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int a_row = share(second, j);
        row[j] = share(third, j);
        if (j > k || !live) continue;
        a[j] = read(at(state, a_row));
        b[j] = read(at(state, row[j]));
        if constexpr (kBackward && kBoth) b_grad[j] = read(at(grad_state, row[j]));
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (j > k || !live) continue;
        write(at(state, row[j]), x);
        if constexpr (kBackward && kBoth) write(at(grad_state, row[j]), y);
#pragma unroll
        for (int c = 0; c < N; ++c) {
          x[c] = b[j][c] + a[j][c] * x[c];
          if constexpr (kBackward && kBoth) y[c] = b_grad[j][c] + a[j][c] * y[c];
        }
      }
    }
    if (!live || chain.segments == 0) return;
    const int top = records[segments[chain.first_segment].begin].vertex;
    write(at(state, top), x);
    if constexpr (kBackward && kBoth) write(at(grad_state, top), y);
  }

  // First step of the down pass, one chain from its top to its bottom: h_in of every segment at its first vertex.
  __device__ void descend_chain(const Chain& chain) const {
    Row h = constant(0), g = constant(0);
    const int top = chain.segments > 0 ? segments[chain.first_segment].begin : 0;
    if (live && top != 0) {
      if constexpr (kBoth) h = read(at(state, records[top].vertex));
      if constexpr (kBackward) g = read(at(grad_state, records[top].vertex));
    }
    for (int k = 0; any(k < chain.segments); k += kBatch) {
      const bool exists = lane < kBatch && k + lane < chain.segments;
      int vertex[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) vertex[i] = vertex_of(chain.first_segment + k + lane, exists, i);
      Row a[kBatch], x[kBatch], q[kBatch], y[kBatch], p[kBatch];
      int first[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        first[j] = share(vertex[0], j);
        const int second = share(vertex[1], j), third = share(vertex[2], j), fourth = share(vertex[3], j);
        if (k + j >= chain.segments || !live) continue;
        a[j] = read(at(state, second));
        if constexpr (kBoth) {
          x[j] = read(at(state, third));
          q[j] = read(at(state, fourth));
        }
        if constexpr (kBackward && kBoth) y[j] = read(at(grad_state, third));
        if constexpr (kBackward) p[j] = read(at(grad_state, fourth));
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (k + j >= chain.segments || !live) continue;
        if (k + j > 0) {
          if constexpr (kBoth) write(at(state, first[j]), h);
          if constexpr (kBackward) write(at(grad_state, first[j]), g);
        }
#pragma unroll
        for (int c = 0; c < N; ++c) {
          const acc A = a[j][c], rest = 1 - A * A;
          if constexpr (kBoth) h[c] = q[j][c] + rest * x[j][c] + A * h[c];
          if constexpr (kBackward) g[c] = p[j][c] + A * g[c];
          if constexpr (kBackward && kBoth) g[c] += rest * y[j][c];
        }
      }
    }
  }

  // Last step: ξ (and η) of a segment from its bottom up, then the results from its top down.
  __device__ void finish(const Run& run) const {
    Values v;
    const int top = share(run.record.vertex, 0), third = share(run.record.vertex, 2);
    const bool chained = run.segment.chained(), has_root = run.segment.begin == 0;
    const int length = live ? run.segment.length() : 0;
    Row h = constant(0), g = constant(0), x = constant(0), y = constant(0);
    if (length > 0 && !has_root) {
      if constexpr (kBoth) h = read(at(state, top));
      if constexpr (kBackward) g = read(at(grad_state, top));
    }
    if (length > 0 && chained) {
      x = read(at(state, third));
      if constexpr (kBackward && kBoth) y = read(at(grad_state, third));
    }
    load(run, length, v);
#pragma unroll
    for (int j = kSegment - 1; j >= 0; --j) {
      if (!any(j < length)) continue;
#pragma unroll
      for (int c = 0; c < N; ++c) {
        v.xi[j][c] += x[c];
        x[c] = v.w[j][c] * v.xi[j][c];
        if constexpr (kBackward && kBoth) {
          v.eta[j][c] += y[c];
          y[c] = v.w[j][c] * v.eta[j][c];
        }
      }
    }
    const bool many = any(run.record.lights > 1);
#pragma unroll
    for (int j = 0; j < kSegment; ++j) {
      if (!any(j < length)) continue;
      const int64_t vertex = share(run.record.vertex, j);
      const int light = share(run.record.first_light, j);
      if (j < length) {
        step_down(v, j, has_root && j == 0, h, g, vertex);
        if (light >= 0) hand_down(light, h, g);
      }
      if (!many) continue;
      const int begin = share(run.record.lights_begin, j), count = share(run.record.lights, j);
      if (j >= length) continue;
      for (int k = 1; k < count; ++k) hand_down(lights[begin + k], h, g);
    }
  }

  // The results of vertex j from h and G of its parent, which become its own.
  __device__ void step_down(Values& v, int j, bool is_root, Row& h, Row& g, int64_t vertex) const {
    Row weight_gradient = constant(0);
#pragma unroll
    for (int c = 0; c < N; ++c) {
      const acc w = v.w[j][c], xi = v.xi[j][c], rest = h[c] - w * xi;
      if constexpr (kBackward) {
        const acc eta = v.eta[j][c], grad_rest = kBoth ? g[c] - w * eta : g[c];
        if (!is_root) weight_gradient[c] = (kBoth ? eta * rest : acc(0)) + xi * grad_rest;
        g[c] = is_root ? eta : eta + w * grad_rest;
      }
      h[c] = !kBoth || is_root ? xi : xi + w * rest;
    }
    if constexpr (kBackward) {
      write(output + vertex * channels, g);
      write(grad_weight + vertex * channels, weight_gradient);
    } else {
      write(output + vertex * channels, h);
    }
  }

  __device__ void hand_down(int light, const Row& h, const Row& g) const {
    if constexpr (kBoth) write(at(state, light), h);
    if constexpr (kBackward) write(at(grad_state, light), g);
  }
};

template <typename Kind>
__device__ Walker<Kind> make_walker(const TreeScanLaunch& l) {
  using scalar_t = typename Kind::scalar_t;
  using weight_t = typename Kind::weight_t;
  using acc = typename Kind::acc;
  const int64_t slice = blockIdx.x / l.team, sample = slice / l.slices;
  const int lane = threadIdx.x % kLanes;
  const int64_t channel = (slice % l.slices * kLanes + lane) * Kind::kWidth;
  const ScheduleLayout layout{l.length, false};
  const int* schedule = l.schedule + sample * layout.words();
  const auto input = [&](const VertexStrides& stride) { return sample * stride.batch + channel; };
  const int64_t own = sample * l.length * l.channels + channel;
  Walker<Kind> w;
  w.records = reinterpret_cast<const VertexRecord*>(schedule + layout.records());
  w.lights = schedule + layout.lights();
  w.segments = reinterpret_cast<const Segment*>(schedule + layout.segments());
  w.chains = reinterpret_cast<const Chain*>(schedule + layout.chains());
  w.u = static_cast<const scalar_t*>(l.u) + input(l.u_stride);
  w.weight = static_cast<const weight_t*>(l.weight) + input(l.weight_stride);
  w.grad_h = static_cast<const scalar_t*>(l.grad_h) + input(l.grad_h_stride);
  w.u_stride = l.u_stride.vertex;
  w.weight_stride = l.weight_stride.vertex;
  w.grad_h_stride = l.grad_h_stride.vertex;
  w.channels = l.channels;
  w.state = static_cast<acc*>(l.state) + own;
  w.grad_state = static_cast<acc*>(l.grad_state) + own;
  w.output = static_cast<scalar_t*>(l.output) + own;
  w.grad_weight = static_cast<weight_t*>(l.grad_weight) + own;
  w.lane = lane;
  w.live = channel < l.channels;
  return w;
}

template <typename Kind>
__global__ void __launch_bounds__(kScanThreads, Kind::kWidth == 1 ? 3 : 2) tree_scan_kernel(TreeScanLaunch l) {
  __shared__ TeamShared team_shared;
  Team team(l.team, &team_shared);
  const Walker<Kind> walker = make_walker<Kind>(l);
  const int* const schedule = l.schedule + blockIdx.x / l.team / l.slices * ScheduleLayout{l.length, false}.words();
  const int rounds = schedule[0], first = team.first() / kLanes, workers = team.stride() / kLanes;
  // All workers of a warp take as many turns; a turn without a segment has length 0.
  const auto each_segment = [&](int round, const auto& visit) {
    const int* const begins = schedule + ScheduleLayout::kSegmentsBegin + round;
    const int begin = begins[0], end = begins[1];
    const int base = begin + first / 4 * 4, offset = first % 4;
    auto run = walker.fetch(base + offset, end);
    for (int i = base; i < end; i += workers) {
      const auto next = walker.fetch(i + workers + offset, end);
      visit(run);
      run = next;
    }
  };
  const auto each_chain = [&](int round, const auto& visit) {
    const int* const begins = schedule + ScheduleLayout::kChainsBegin + round;
    const int begin = begins[0], end = begins[1];
    const int offset = first % 4;
    for (int i = begin + first / 4 * 4; i < end; i += workers) {
      visit(i + offset < end ? walker.chains[i + offset] : Chain{0, 0});
    }
    return begin != end;
  };
  for (int round = rounds - 1; round >= 0; --round) {
    each_segment(round, [&](const auto& run) { walker.summarise(run); });
    team.sync();
    if (each_chain(round, [&](const Chain& chain) { walker.climb(chain); })) team.sync();
  }
  for (int round = 0; round < rounds; ++round) {
    if constexpr (Kind::kBoth || Kind::kBackward) {
      if (each_chain(round, [&](const Chain& chain) { walker.descend_chain(chain); })) team.sync();
    }
    each_segment(round, [&](const auto& run) { walker.finish(run); });
    team.sync();
  }
}

template <typename Kind>
void launch_rounds(TreeScanLaunch l) {
  constexpr int kSlice = kLanes * Kind::kWidth;
  l.slices = static_cast<int>((l.channels + kSlice - 1) / kSlice);
  // Larger trees that are few share several blocks.
  const int threads = l.length <= 64 ? 64 : l.length <= 256 ? 128 : kScanThreads;
  const int64_t fill = 2 * multiprocessors();
  l.team = 1;
  while (l.team < largest_team() && l.batch * l.slices * l.team < fill && l.length >= 1024 * l.team) l.team *= 2;
  launch_teams(tree_scan_kernel<Kind>, l.batch * l.slices, l.team, threads, 0, l);
}

}  // namespace ssm
