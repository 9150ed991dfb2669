// The tree scan over pieces in place of vertices, a level at a time. A piece hands up B + A x. Downwards, h above its
// first vertex becomes A h + Q + (1 - A²) x at the last vertex of its spine: a vertex i of the spine adds a (1 - w²) ξ,
// with a the product of the weights between i and there, and what x adds to all of them, Σ a² (1 - w²) x, telescopes.
// Where G comes down alone, it becomes A G + Q.
#include "tree/cuda/trunk.h"

#include <algorithm>

#include "common/cuda/launch.h"

namespace ssm {
namespace {

// The tree of pieces in shared memory.
struct PieceTree {
  int *parent, *after, *level;
  static constexpr size_t kBytes = 3 * sizeof(int);  // of a piece

  __device__ PieceTree(int* memory, int most) : parent(memory), after(parent + most), level(after + most) {}

  // Reads the pieces and finds the level of each by pointer jumping, a thread a piece. Returns the deepest level.
  __device__ int build(const Piece* pieces, int count, int* deepest) const {
    const int k = threadIdx.x;
    const bool exists = k < count;
    int above = 0, levels = 0;
    if (k == 0) *deepest = 0;
    if (exists) {
      above = parent[k] = pieces[k].parent_of(k);
      after[k] = pieces[k].after_of(k);
      levels = k > 0;
    }
    int* const ancestor = level;  // a word holds levels and an ancestor
    while (true) {
      if (exists) ancestor[k] = levels << 16 | above;
      __syncthreads();
      const int further = exists ? ancestor[above] : 0;
      levels += further >> 16;
      above = further & 0xffff;
      if (!__syncthreads_or(above != 0)) break;
    }
    if (exists) {
      level[k] = levels;
      atomicMax(deepest, levels);
    }
    __syncthreads();
    return *deepest;
  }
};

// kLanes: channels of a block.
template <typename acc, int kLanes, int kSums, bool kBoth, bool kDown>
__global__ void __launch_bounds__(kTrunkThreads, 1) trunk_kernel(TrunkLaunch l) {
  constexpr int kRows = 1 + 2 * kSums, kUsed = kDown ? kRows : 1 + kSums;
  constexpr int kOwn = (kMostPieces * kLanes + kTrunkThreads - 1) / kTrunkThreads;  // pieces of a worker
  extern __shared__ int4 memory[];
  __shared__ int deepest;
  const int most = static_cast<int>(l.layout.most_pieces());
  const int64_t groups = (l.channels + kLanes - 1) / kLanes, sample = blockIdx.x / groups;
  const int lane = threadIdx.x % kLanes, worker = threadIdx.x / kLanes, workers = blockDim.x / kLanes;
  const int64_t channel = blockIdx.x % groups * kLanes + lane;
  const bool live = channel < l.channels;
  const int* const schedule = l.schedule + sample * l.layout.words();
  const int count = min(schedule[l.layout.count()], most);
  acc* const rows = static_cast<acc*>(l.rows) + sample * kRows * most * l.channels + channel;
  acc* const held = reinterpret_cast<acc*>(memory) + lane;
  const PieceTree tree(reinterpret_cast<int*>(reinterpret_cast<acc*>(memory) + kUsed * most * kLanes), most);
  const auto row = [&](int r, int k) -> acc& { return rows[(static_cast<int64_t>(r) * most + k) * l.channels]; };
  const auto at = [&](int r, int k) -> acc& { return held[(r * most + k) * kLanes]; };
  for (int k = worker; k < count; k += workers) {
#pragma unroll
    for (int r = 0; r < kUsed; ++r) at(r, k) = live ? row(r, k) : acc(0);
  }
  const int levels = tree.build(reinterpret_cast<const Piece*>(schedule + l.layout.pieces()), count, &deepest) + 1;
  int level_of[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) level_of[i] = worker + i * workers < count ? tree.level[worker + i * workers] : -1;
  const auto each_of = [&](int level, const auto& visit) {
    unsigned mine = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) mine |= (level_of[i] == level ? 1u : 0u) << i;
    for (; mine != 0; mine &= mine - 1) {
      const int k = worker + (__ffs(static_cast<int>(mine)) - 1) * workers;
      visit(k, at(0, k));
    }
    __syncthreads();
  };
  for (int level = levels - 1; level >= 0; --level) {
    each_of(level, [&](int k, acc through) {
#pragma unroll
      for (int s = 0; s < kSums; ++s) {
        acc x = 0;
        for (int child = k + 1; child < count && tree.parent[child] == k; child = tree.after[child]) {
          x += at(1 + s, child);
        }
        at(1 + s, k) += through * x;
        if (live) row(1 + s, k) = x;
        if constexpr (kBoth && kDown) at(1 + kSums + s, k) += (1 - through * through) * x;
      }
    });
  }
  if constexpr (kDown) {
    for (int level = 0; level < levels; ++level) {
      each_of(level, [&](int k, acc through) {
#pragma unroll
        for (int s = 0; s < kSums; ++s) {
          const acc above = k == 0 ? acc(0) : at(1 + kSums + s, tree.parent[k]);
          at(1 + kSums + s, k) += through * above;
          if (live) row(1 + kSums + s, k) = above;
        }
      });
    }
  }
}

// Launches with the row's bytes that a block takes, kBytes, or with the next smaller ones if they do not fit.
template <typename acc, int kBytes, int kSums, bool kBoth, bool kDown>
void launch(const char* op, const TrunkLaunch& l) {
  constexpr int kLanes = kBytes / static_cast<int>(sizeof(acc)), kUsed = 1 + (kDown ? 2 : 1) * kSums;
  auto* const kernel = trunk_kernel<acc, kLanes, kSums, kBoth, kDown>;
  const int64_t groups = (l.channels + kLanes - 1) / kLanes, most = l.layout.most_pieces();
  const size_t bytes = static_cast<size_t>(most) * (kUsed * kBytes + PieceTree::kBytes);
  if constexpr (kBytes > kLeastTrunkBytes) {
    if (bytes > kernel_limits(kernel, op).shared) return launch<acc, kLeastTrunkBytes, kSums, kBoth, kDown>(op, l);
  }
  const int threads = static_cast<int>(std::min<int64_t>((most * kLanes + 31) / 32 * 32, kTrunkThreads));
  launch_teams(op, kernel, l.batch * groups, 1, threads, bytes, l);
}

template <typename acc>
void launch_type(const char* op, const TrunkLaunch& l) {
  if (l.sums == 2) return launch<acc, kTrunkBytes, 2, true, true>(op, l);
  if (l.both) return launch<acc, kTrunkBytes, 1, true, true>(op, l);
  l.down ? launch<acc, kTrunkBytes, 1, false, true>(op, l) : launch<acc, kTrunkBytes, 1, false, false>(op, l);
}

}  // namespace

void launch_trunk(const char* op, const TrunkLaunch& l) {
  l.is_double ? launch_type<double>(op, l) : launch_type<float>(op, l);
}

}  // namespace ssm
