// Schedule of the tree scan from the parents alone, one team a sample: subtree sizes, paths and rounds by pointer
// jumping, places by prefix sums. Integer atomics only where the order of the threads does not show.
#include "tree_schedule.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "../checks.h"
#include "team.cuh"

namespace ssm {
namespace {

constexpr int kThreads = 1024;
constexpr int64_t kMaxShared = 200 * 1024;
constexpr int kJumps = 32;  // bound for whatever is given as parents, a cycle say

struct Launch {
  const int64_t* parent;
  int* schedule;
  int* scratch;  // null where it fits shared memory
  int64_t scratch_stride;
  int length, team;
  bool walk;
};

using Pair = unsigned long long;
__device__ Pair pair(uint32_t high, uint32_t low) {
  return static_cast<Pair>(high) << 32 | low;
}
__device__ uint32_t high(Pair p) {
  return static_cast<uint32_t>(p >> 32);
}
__device__ uint32_t low(Pair p) {
  return static_cast<uint32_t>(p);
}

// Arrays of one sample. `a` and `b` serve in turn as sizes, keys and links.
struct Work {
  Pair *a, *b;
  int *parent, *size, *heavy, *children, *place, *head, *begin;

  static constexpr int kWords = 11;
  __device__ Work(int* base, int64_t n)
      : a(reinterpret_cast<Pair*>(base)),
        b(a + n),
        parent(base + 4 * n),
        size(parent + n),
        heavy(size + n),
        children(heavy + n),
        place(children + n),
        head(place + n),
        begin(head + n) {}
};

struct Builder {
  Team& team;
  Work w;
  int length;
  int* schedule;
  bool walk;

  template <typename Visit>
  __device__ void each(const Visit& visit) const {
    for (int v = team.first(); v < length; v += team.stride()) visit(v);
  }
  __device__ ScheduleLayout layout() const { return {length, walk}; }
  __device__ bool is_root(int v) const { return w.parent[v] == v; }
  __device__ bool is_head(int v) const { return is_root(v) || w.heavy[w.parent[v]] != v; }

  __device__ void read_parents(const int64_t* parent) {
    each([&](int v) {
      w.parent[v] = static_cast<int>(min(max(parent[v], int64_t(0)), int64_t(length - 1)));
      w.children[v] = 0;
    });
    team.sync();
  }

  // size[v]: vertices of the subtree of v. After k steps the count covers depths below 2^k and `ancestor` is 2^k above.
  __device__ void count_descendants() {
    int *ancestor = reinterpret_cast<int*>(w.a), *next = ancestor + length;
    int *size = reinterpret_cast<int*>(w.b), *sum = size + length;
    each([&](int v) {
      ancestor[v] = is_root(v) ? -1 : w.parent[v];
      size[v] = sum[v] = 1;
      if (!is_root(v)) atomicAdd(w.children + w.parent[v], 1);
    });
    team.sync();
    bool more = true;
    for (int k = 0; k < kJumps && more; ++k) {
      bool mine = false;
      each([&](int v) {
        const int above = ancestor[v];
        next[v] = above < 0 ? -1 : ancestor[above];
        mine |= next[v] >= 0;
        if (above >= 0) atomicAdd(sum + above, size[v]);
      });
      more = team.any(mine);
      each([&](int v) { size[v] = sum[v]; });
      team.sync();
      int* const swap = ancestor;
      ancestor = next;
      next = swap;
    }
    each([&](int v) { w.size[v] = size[v]; });
    team.sync();
  }

  // heavy[v] = the child with the largest subtree, the first of equal ones, or -1.
  __device__ void choose_heavy_children() {
    each([&](int v) { w.a[v] = 0; });
    team.sync();
    each([&](int v) {
      if (!is_root(v)) atomicMax(w.a + w.parent[v], pair(w.size[v], ~static_cast<uint32_t>(v)));
    });
    team.sync();
    each([&](int v) { w.heavy[v] = w.a[v] == 0 ? -1 : static_cast<int>(~low(w.a[v])); });
    team.sync();
  }

  // Follows links (distance, target) to their ends, where target is its own; `from` and `to` are swapped as needed.
  __device__ void follow(Pair*& from, Pair*& to) {
    bool more = true;
    for (int k = 0; k < kJumps && more; ++k) {
      bool mine = false;
      each([&](int v) {
        const Pair own = from[v], further = from[low(own)];
        to[v] = pair(high(own) + high(further), low(further));
        mine |= low(own) != low(further);
      });
      more = team.any(mine);
      Pair* const swap = from;
      from = to;
      to = swap;
    }
  }

  // head[v] and, in place[v], the distance to it; then, at each head in `a`, (round, -), and in `b` the path's length.
  __device__ void find_paths() {
    Pair *from = w.a, *to = w.b;
    each([&](int v) { from[v] = is_head(v) ? pair(0, v) : pair(1, w.parent[v]); });
    team.sync();
    follow(from, to);
    each([&](int v) {
      w.head[v] = static_cast<int>(low(from[v]));
      w.place[v] = static_cast<int>(high(from[v]));
    });
    team.sync();
    each([&](int v) { from[v] = is_head(v) && !is_root(v) ? pair(1, w.head[w.parent[v]]) : pair(0, v); });
    team.sync();
    follow(from, to);
    each([&](int v) { to[v] = 0; });
    team.sync();
    each([&](int v) {
      if (w.heavy[v] < 0) to[w.head[v]] = w.place[v] + 1;
    });
    w.a = from;
    w.b = to;
    team.sync();
  }

  __device__ static int segments_of(int path) { return (path + kSegment - 1) / kSegment; }

  // A head's path: its segments, as even as can be, and its chain.
  __device__ void write_path(int path, int begin, int segment, int chain) const {
    const int count = segments_of(path);
    Segment* const out = reinterpret_cast<Segment*>(schedule + layout().segments()) + segment;
    for (int k = 0; k < count; ++k) {
      const int first = path * k / count, last = path * (k + 1) / count;
      out[k] = {begin + first, (last - first) | (count > 1 ? 0x100 : 0)};
    }
    if (count > 1) reinterpret_cast<Chain*>(schedule + layout().chains())[chain] = {segment, count};
  }

  // Places, round by round and within a round by the number of the head; the thread keeps a run of vertices. Afterwards
  // high(b[head]) is the place of its path.
  __device__ void place_paths() {
    const int share = (length + team.stride() - 1) / team.stride();
    const int begin = min(length, team.first() * share), end = min(length, begin + share);
    int3 base = make_int3(0, 0, 0);
    int round = 0;
    for (; round < kMaxRounds && base.x < length; ++round) {
      const auto each_path = [&](const auto& visit) {
        for (int v = begin; v < end; ++v) {
          if (high(w.a[v]) == static_cast<uint32_t>(round) && is_head(v) && low(w.b[v]) > 0) visit(v, low(w.b[v]));
        }
      };
      int3 own = make_int3(0, 0, 0), total;
      each_path([&](int, int path) {
        own.x += path;
        own.y += segments_of(path);
        own.z += path > kSegment;
      });
      int3 at = team.prefix(own, total);
      if (total.x == 0) break;
      if (team.first() == 0) {
        schedule[ScheduleLayout::kSegmentsBegin + round] = base.y;
        schedule[ScheduleLayout::kChainsBegin + round] = base.z;
      }
      each_path([&](int v, int path) {
        write_path(path, base.x + at.x, base.y + at.y, base.z + at.z);
        w.b[v] = pair(base.x + at.x, path);
        at = make_int3(at.x + path, at.y + segments_of(path), at.z + (path > kSegment));
      });
      base = make_int3(base.x + total.x, base.y + total.y, base.z + total.z);
    }
    if (team.first() == 0) {
      schedule[0] = round;
      schedule[ScheduleLayout::kSegmentsBegin + round] = base.y;
      schedule[ScheduleLayout::kChainsBegin + round] = base.z;
    }
    team.sync();
  }

  __device__ int lights_of(int v) const { return w.children[v] - (w.heavy[v] >= 0); }

  // The light children of every vertex in a list from begin[v] on, in any order: what is done with them does not show
  // it. Uses head and place.
  __device__ const int* list_lights() {
    const int share = (length + team.stride() - 1) / team.stride();
    const int first = min(length, team.first() * share), end = min(length, first + share);
    int3 own = make_int3(0, 0, 0), total;
    for (int v = first; v < end; ++v) own.x += lights_of(v);
    int begin = team.prefix(own, total).x;
    int *found = w.head, *cursor = w.place;
    for (int v = first; v < end; ++v) {
      w.begin[v] = begin;
      begin += lights_of(v);
      cursor[v] = 0;
    }
    team.sync();
    each([&](int v) {
      if (is_head(v) && !is_root(v)) found[w.begin[w.parent[v]] + atomicAdd(cursor + w.parent[v], 1)] = v;
    });
    team.sync();
    return found;
  }

  // Light children with smaller numbers than v, and the vertices of their subtrees.
  __device__ int2 lights_before(const int* found, int v) const {
    const int above = w.parent[v];
    int2 before = make_int2(0, 0);
    for (int k = w.begin[above]; k < w.begin[above] + lights_of(above); ++k) {
      if (found[k] >= v) continue;
      ++before.x;
      before.y += w.size[found[k]];
    }
    return before;
  }

  // high(a[v]) = place of every vertex in the rounds' order.
  __device__ void write_records() {
    each([&](int v) { w.a[v] = pair(high(w.b[w.head[v]]) + static_cast<uint32_t>(w.place[v]), 0); });
    team.sync();
    const int* const found = list_lights();
    VertexRecord* const records = reinterpret_cast<VertexRecord*>(schedule + layout().records());
    each([&](int v) {
      const uint32_t at = high(w.a[v]);
      if (at < static_cast<uint32_t>(length)) records[at] = {v, -1, w.begin[v], lights_of(v)};
    });
    team.sync();
    int* const lights = schedule + layout().lights();
    each([&](int v) {
      if (!is_head(v) || is_root(v)) return;
      const int rank = lights_before(found, v).x;
      const uint32_t at = high(w.a[w.parent[v]]);
      lights[w.begin[w.parent[v]] + rank] = v;
      if (rank == 0 && at < static_cast<uint32_t>(length)) records[at].first_light = v;
    });
  }

  // Depth first, the heavy child last. The place of a vertex is the sum of steps from the root down to it, the number
  // of forks that wait for it the sum of edges to other than last children.
  __device__ void write_walk() {
    constexpr uint32_t kOneFork = kMostSteps;  // above the sum of steps
    const uint32_t forks = walk_forks(length);
    const int* const found = list_lights();
    Pair *from = w.a, *to = w.b;
    each([&](int v) {
      const int above = w.parent[v];
      uint32_t step = 0, flags = w.children[v] == 0 ? WalkStep::kLeaf : 0;
      if (!is_root(v) && is_head(v)) {
        const int2 before = lights_before(found, v);
        step = (1 + before.y) | kOneFork;
        flags |= before.x > 0 ? WalkStep::kMiddleChild : WalkStep::kFirstChild;
      } else if (!is_root(v)) {
        step = w.size[above] - w.size[v];
      }
      if (is_root(v) || w.children[above] == 1) flags |= WalkStep::kFirstChild;
      from[v] = pair(step, above);
      w.place[v] = static_cast<int>(flags);
    });
    team.sync();
    follow(from, to);
    WalkStep* const steps = reinterpret_cast<WalkStep*>(schedule);
    each([&](int v) {
      const uint32_t at = high(from[v]) % kOneFork, flags = static_cast<uint32_t>(w.place[v]);
      const uint32_t slot = WalkStep::kFirstSlot + min(high(from[v]) / kOneFork, forks - 1);
      const uint32_t own = w.children[v] > 1 ? slot : WalkStep::kZeroSlot;
      const uint32_t parent = flags & WalkStep::kFirstChild    ? WalkStep::kUnreadSlot
                              : flags & WalkStep::kMiddleChild ? max(slot - 1, WalkStep::kFirstSlot)
                                                               : slot;
      if (at < static_cast<uint32_t>(length)) {
        steps[at] = {static_cast<uint32_t>(v), WalkStep::slots(own, parent) | flags};
      }
    });
  }
};

__global__ void __launch_bounds__(kThreads) schedule_kernel(Launch l) {
  extern __shared__ int2 memory[];
  __shared__ TeamShared team_shared;
  const int64_t sample = blockIdx.x / l.team;
  Team team(l.team, &team_shared);
  const ScheduleLayout layout{l.length, l.walk};
  int* const scratch = l.scratch == nullptr ? reinterpret_cast<int*>(memory) : l.scratch + sample * l.scratch_stride;
  Builder builder{team, Work(scratch, l.length), l.length, l.schedule + sample * layout.words(), l.walk};
  builder.read_parents(l.parent + sample * l.length);
  builder.count_descendants();
  builder.choose_heavy_children();
  if (l.walk) {
    builder.write_walk();
  } else {
    builder.find_paths();
    builder.place_paths();
    builder.write_records();
  }
  team.leave();
}

at::Tensor tree_schedule(const at::Tensor& parent, std::optional<bool> walk) {
  TORCH_CHECK(
      parent.dim() == 2 && parent.size(1) >= 1, "parent must be [B, L] with L at least 1, got ", parent.sizes());
  TORCH_CHECK(parent.size(1) <= int64_t(1) << 28, "the tree has more than 2^28 vertices");
  check_device(parent, at::kCUDA, parent, "parent");
  check_dtype(parent, at::kLong, "parent");
  const c10::cuda::CUDAGuard guard(parent.device());
  const int64_t batch = parent.size(0), length = parent.size(1);
  const ScheduleLayout layout{length, walk.value_or(prefers_walk(batch, length))};
  TORCH_CHECK(!layout.walk || length < kMostSteps, "the tree has 2^27 vertices or more, too many for a walk");
  // Zeros, so that even what is no tree leads nowhere outside the tensors.
  at::Tensor schedule = at::zeros({batch, layout.words()}, parent.options().dtype(at::kInt));
  if (batch == 0) return schedule;
  const at::Tensor parents = parent.contiguous();
  Launch l{parents.const_data_ptr<int64_t>(), schedule.data_ptr<int>(), nullptr, 0, static_cast<int>(length), 1,
      layout.walk};
  const int threads = static_cast<int>(std::clamp<int64_t>((length + 31) / 32 * 32, 32, kThreads));
  const int64_t words = (Work::kWords * length + 1) / 2 * 2;
  if (4 * words <= kMaxShared) {
    launch_teams(schedule_kernel, batch, 1, threads, 4 * words, l);
    return schedule;
  }
  const int64_t fill = 2 * at::cuda::getCurrentDeviceProperties()->multiProcessorCount;
  while (l.team < largest_team() && batch * l.team < fill && length > kThreads * l.team) l.team *= 2;
  const at::Tensor scratch = at::empty({batch, words}, schedule.options());
  l.scratch = scratch.data_ptr<int>();
  l.scratch_stride = words;
  launch_teams(schedule_kernel, batch, l.team, threads, 0, l);
  return schedule;
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("tree_schedule", &tree_schedule);
}

}  // namespace ssm
