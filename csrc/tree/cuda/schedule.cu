// Makes the schedule of a tree from its parents alone; one team works on a sample. Subtree sizes and places in the walk
// come from pointer jumping, pieces from prefix sums. Integer atomics are used only where the order of the threads does
// not show in the result.
#include "tree/cuda/schedule.h"

#include <algorithm>

#include "common/cuda/team.cuh"
#include "tree/cuda/schedule_launch.h"

namespace ssm {
namespace {

constexpr int kJumps = 32;  // ends the loops whatever is given as parents, for example a cycle

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

// Arrays of one sample. `a` and `b` hold sizes, then keys, then links; `found` and `begin` hold the lists of children,
// then the pieces.
struct Work {
  Pair *a, *b;
  int *parent, *size, *heavy, *children, *place, *found, *begin;

  __device__ Work(int* base, int64_t n)
      : a(reinterpret_cast<Pair*>(base)),
        b(a + n),
        parent(base + 4 * n),
        size(parent + n),
        heavy(size + n),
        children(heavy + n),
        place(children + n),
        found(place + n),
        begin(found + n) {}

  // 32-bit words of all arrays, rounded up to whole pairs.
  static constexpr int64_t words(int64_t n) { return (11 * n + 1) / 2 * 2; }
};

struct Builder {
  Team& team;
  Work w;
  int length;
  int* schedule;
  int cut;

  template <typename Visit>
  __device__ void each(const Visit& visit) const {
    for (int v = team.first(); v < length; v += team.stride()) visit(v);
  }
  // The same for a visit that begins with dependent reads: a few vertices are read before the first is used.
  template <typename Read, typename Use>
  __device__ void each_after_reading(const Read& read, const Use& use) const {
    const int stride = team.stride();
    for (int begin = team.first(); begin < length; begin += kScheduleAtOnce * stride) {
      decltype(read(0)) values[kScheduleAtOnce];
#pragma unroll
      for (int i = 0; i < kScheduleAtOnce; ++i) values[i] = read(min(begin + i * stride, length - 1));
#pragma unroll
      for (int i = 0; i < kScheduleAtOnce; ++i) {
        if (begin + i * stride < length) use(begin + i * stride, values[i]);
      }
    }
  }
  __device__ ScheduleLayout layout() const { return {length, cut}; }
  __device__ bool is_root(int v) const { return w.parent[v] == v; }
  __device__ bool is_light(int v) const { return !is_root(v) && w.heavy[w.parent[v]] != v; }
  __device__ bool is_trunk(int v) const { return cut > 0 && w.size[v] > cut; }

  __device__ void read_parents(const int64_t* parent) {
    each([&](int v) {
      w.parent[v] = static_cast<int>(min(max(parent[v], int64_t(0)), int64_t(length - 1)));
      w.children[v] = 0;
    });
    team.sync();
  }

  // size[v] becomes the number of vertices in the subtree of v. After k steps the count covers depths below 2^k, and
  // `ancestor` is 2^k above.
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
      const auto read = [&](int v) {
        const int above = ancestor[v];
        return make_int3(above, above < 0 ? -1 : ancestor[above], size[v]);
      };
      each_after_reading(read, [&](int v, const int3& values) {
        next[v] = values.y;
        mine |= values.y >= 0;
        if (values.x >= 0) atomicAdd(sum + values.x, values.z);
      });
      more = team.any(mine);
      each([&](int v) { size[v] = sum[v]; });
      team.sync();
      int* const swap = ancestor;
      ancestor = next;
      next = swap;
    }
    // If the parents have a cycle, the sums mean nothing: clamp them.
    each([&](int v) { w.size[v] = min(max(size[v], 1), length); });
    team.sync();
  }

  // heavy[v] becomes the child with the largest subtree, the first of equal ones, or -1.
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

  // Follows links (distance, target) to their ends, whose targets are themselves. `from` and `to` are swapped as
  // needed.
  __device__ void follow(Pair*& from, Pair*& to) {
    bool more = true;
    for (int k = 0; k < kJumps && more; ++k) {
      bool mine = false;
      struct Links {
        Pair own, further;
      };
      const auto read = [&](int v) {
        const Pair own = from[v];
        return Links{own, from[low(own)]};
      };
      each_after_reading(read, [&](int v, const Links& links) {
        to[v] = pair(high(links.own) + high(links.further), low(links.further));
        mine |= low(links.own) != low(links.further);
      });
      more = team.any(mine);
      Pair* const swap = from;
      from = to;
      to = swap;
    }
  }

  __device__ int lights_of(int v) const { return w.children[v] - (w.heavy[v] >= 0); }

  // Lists the light children of every vertex from begin[v] on, in any order, since their order does not show in what is
  // done with them. Uses `place`.
  __device__ void list_lights() {
    const int share = (length + team.stride() - 1) / team.stride();
    const int first = min(length, team.first() * share), end = min(length, first + share);
    int3 own = make_int3(0, 0, 0), total;
    for (int v = first; v < end; ++v) own.x += lights_of(v);
    int begin = team.prefix(own, total).x;
    int* const cursor = w.place;
    for (int v = first; v < end; ++v) {
      w.begin[v] = begin;
      begin += lights_of(v);
      cursor[v] = 0;
    }
    team.sync();
    each([&](int v) {
      if (is_light(v)) w.found[w.begin[w.parent[v]] + atomicAdd(cursor + w.parent[v], 1)] = v;
    });
    team.sync();
  }

  // How many light children come before v, and how many vertices their subtrees have. Children come in the order of
  // their numbers, but those of the trunk come last.
  __device__ int2 lights_before(int v) const {
    const int above = w.parent[v];
    const bool trunk = is_trunk(v);
    int2 before = make_int2(0, 0);
    for (int k = w.begin[above]; k < w.begin[above] + lights_of(above); ++k) {
      const int other = w.found[k];
      const bool other_trunk = is_trunk(other);
      if (trunk == other_trunk ? other >= v : other_trunk) continue;
      ++before.x;
      before.y += w.size[other];
    }
    return before;
  }

  // Writes the walk: depth first, the heavy child last. The place of a vertex is the sum of steps from the root down to
  // it. The number of forks that wait for it is the number of edges above it to other than last children. Leaves the
  // places in `place`.
  __device__ void write_walk() {
    constexpr uint32_t kOneFork = static_cast<uint32_t>(kLongestWalk);  // above the sum of steps
    const uint32_t forks = walk_forks(length);
    list_lights();
    Pair *from = w.a, *to = w.b;
    each([&](int v) {
      const int above = w.parent[v];
      uint32_t step = 0, flags = w.children[v] == 0 ? WalkStep::kLeaf : 0;
      if (is_light(v)) {
        const int2 before = lights_before(v);
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
      const bool exists = at < static_cast<uint32_t>(length);
      if (exists) steps[at] = {static_cast<uint32_t>(v), WalkStep::slots(own, parent) | flags};
      w.place[v] = exists ? static_cast<int>(at) : 0;
    });
    team.sync();
  }

  // Sets begin, by place in the walk, to kSpine for the trunk and to kSpine + kFirst where a piece begins.
  static constexpr int kSpine = 1, kFirst = 2;
  __device__ void mark_pieces() {
    int* const forks = w.found;  // whether the trunk forks at the vertex
    each([&](int v) { forks[v] = w.begin[v] = 0; });
    team.sync();
    each([&](int v) {
      if (is_light(v) && is_trunk(v)) forks[w.parent[v]] = 1;
    });
    team.sync();
    each([&](int v) {
      if (!is_trunk(v)) return;
      const int at = w.place[v], above = w.parent[v];
      const bool first = is_root(v) || forks[above] != 0 || at / cut != w.place[above] / cut;
      w.begin[at] = kSpine + (first ? kFirst : 0);
    });
    team.sync();
  }

  // Cuts the walk. Meanwhile children[v] is the piece of a vertex of the trunk, and found[place] the number of pieces
  // that begin before.
  __device__ void write_pieces() {
    mark_pieces();
    const WalkStep* const steps = reinterpret_cast<const WalkStep*>(schedule);
    WalkStep* const spine = reinterpret_cast<WalkStep*>(schedule + layout().spine());
    Piece* const pieces = reinterpret_cast<Piece*>(schedule + layout().pieces());
    const int most = static_cast<int>(layout().most_pieces()), share = (length + team.stride() - 1) / team.stride();
    const int first = min(length, team.first() * share), end = min(length, first + share);
    int3 own = make_int3(0, 0, 0), total;
    for (int at = first; at < end; ++at) {
      own.x += w.begin[at] / kFirst;
      own.y += w.begin[at] % kFirst;
    }
    int3 before = team.prefix(own, total);
    for (int at = first; at < end; ++at) {
      w.found[at] = min(before.x, most);
      if (w.begin[at] == 0) continue;
      if (w.begin[at] >= kFirst) {
        if (before.x < most) pieces[before.x] = {at, before.y, 0, 0};
        ++before.x;
      }
      const uint32_t v = steps[at].vertex;
      w.children[v] = min(before.x, most) - 1;
      spine[before.y++] = {v, static_cast<uint32_t>(at)};
    }
    const int count = min(total.x, most);
    if (team.first() == 0) {
      schedule[layout().count()] = count;
      pieces[count] = {length, total.y, 0, 0};
    }
    team.sync();
    for (int k = team.first(); k < count; k += team.stride()) {
      const uint32_t v = steps[pieces[k].begin].vertex;
      const int last = pieces[k].begin + w.size[v];
      pieces[k].parent = k == 0 ? 0 : max(min(w.children[w.parent[v]], k - 1), 0);
      pieces[k].after = last < length ? max(w.found[last], k + 1) : count;
    }
  }
};

__global__ void __launch_bounds__(kScheduleThreads) schedule_kernel(ScheduleLaunch l) {
  extern __shared__ int2 memory[];
  __shared__ TeamShared team_shared;
  const int64_t sample = blockIdx.x / l.team;
  Team team(l.team, &team_shared);
  const ScheduleLayout layout{l.length, l.cut};
  int* const scratch = l.scratch == nullptr ? reinterpret_cast<int*>(memory) : l.scratch + sample * l.scratch_stride;
  Builder builder{team, Work(scratch, l.length), l.length, l.schedule + sample * layout.words(), l.cut};
  builder.read_parents(l.parent + sample * l.length);
  builder.count_descendants();
  builder.choose_heavy_children();
  builder.write_walk();
  if (l.cut > 0) builder.write_pieces();
  team.leave();
}

}  // namespace

int64_t schedule_scratch_words(int64_t length) {
  const int64_t words = Work::words(length);
  const int64_t shared = static_cast<int64_t>(kernel_limits(schedule_kernel, "tree_schedule").shared);
  return words * static_cast<int64_t>(sizeof(int)) <= std::min(kScheduleShared, shared) ? 0 : words;
}

void launch_tree_schedule(const ScheduleLaunch& launch, int64_t batch) {
  ScheduleLaunch l = launch;
  l.team = 1;
  const int threads = static_cast<int>(std::clamp<int64_t>((l.length + 31) / 32 * 32, 32, kScheduleThreads));
  if (l.scratch == nullptr) {
    launch_teams("tree_schedule", schedule_kernel, batch, 1, threads, sizeof(int) * Work::words(l.length), l);
    return;
  }
  const int64_t fill = 2 * multiprocessors();
  const int most = largest_team("tree_schedule");
  while (l.team < most && batch * l.team < fill && l.length > kScheduleThreads * l.team) l.team *= 2;
  launch_teams("tree_schedule", schedule_kernel, batch, l.team, threads, 0, l);
}

}  // namespace ssm
