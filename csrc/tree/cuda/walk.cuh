// How one warp walks a tree, forwards or backwards, for the channels of its 32 threads. While it works on a chunk of
// kChunk steps, the rows of coming chunks are copied into a ring in shared memory. A warp is nearly alone on its
// scheduler, so that a step takes as long as its instructions and their waits.
#pragma once

#include <tuple>
#include <type_traits>

#include "common/cuda/async_copy.cuh"
#include "tree/cuda/rows.cuh"
#include "tree/cuda/schedule.h"
#include "tree/cuda/tuning.h"

namespace ssm {

// The rows of a chunk in the ring: tensor by tensor, in a tensor step by step, in a step thread by thread.
template <typename... Rows>
struct ChunkLayout {
  static constexpr int kBytes = kChunk * kWarp * (static_cast<int>(sizeof(Rows)) + ...);
  template <int kTensor>
  using row_t = std::tuple_element_t<kTensor, std::tuple<Rows...>>;

  template <int kTensor>
  static constexpr int begin() {
    constexpr int kSizes[] = {static_cast<int>(sizeof(Rows))...};
    int bytes = 0;
    for (int t = 0; t < kTensor; ++t) bytes += kSizes[t];
    return kChunk * kWarp * bytes;
  }
  template <int kTensor>
  __device__ static row_t<kTensor>* at(char* chunk, int j, int lane) {
    return reinterpret_cast<row_t<kTensor>*>(chunk + begin<kTensor>()) + j * kWarp + lane;
  }
  template <int kTensor, typename Source, typename... Of>
  __device__ static void request(char* chunk, const WalkStep* steps, const Source& source, const Of&... of) {
    source.request(chunk + begin<kTensor>(), steps, of...);
  }
};

// The rows of a tensor by vertex, from this thread's first channel on. The distance from row to row is 32 bits of
// bytes, so that an address takes one multiplication.
template <typename T>
struct VertexRows {
  T* base;
  uint32_t bytes;

  __device__ VertexRows(T* first, int64_t stride) : base(first), bytes(static_cast<uint32_t>(stride * sizeof(T))) {
    asm("" : "+r"(bytes));  // otherwise nvcc multiplies by all 64 bits of the stride
  }
  __device__ T* operator[](uint32_t vertex) const {
    using byte_t = std::conditional_t<std::is_const_v<T>, const char, char>;
    return reinterpret_cast<T*>(reinterpret_cast<byte_t*>(base) + static_cast<uint64_t>(vertex) * bytes);
  }
};

// The same rows as a warp copies them. Aligned rows are copied by 16 bytes a thread, so that one copy has several rows.
// Otherwise every thread copies its own channels.
template <typename T, int N, bool kAligned>
struct CopiedRows {
  using Row = Pack<T, N>;
  static constexpr int kPiece = 16, kPieces = kWarp * static_cast<int>(sizeof(Row)) / kPiece;  // threads to a row
  static constexpr int kRows = kAligned ? kWarp / kPieces : 1;                                 // rows of one copy
  static_assert(!kAligned || (kPieces <= kWarp && kRows <= kChunk));

  VertexRows<const T> rows;
  bool live;

  // `base` is the first channel of the first vertex, `first` the warp's first channel of `channels`.
  __device__ CopiedRows(const T* base, int64_t stride, int64_t first, int64_t channels)
      : CopiedRows(base, stride, channel_of(first), channels, 0) {}

  __device__ void request(char* to, const WalkStep* steps) const {
    request(to, steps, [](uint32_t vertex) { return vertex; });
  }

  // Copies, for each step, the row of the vertex that `of` names for the step's vertex.
  template <typename Of>
  __device__ void request(char* to, const WalkStep* steps, const Of& of) const {
    if (!live) return;
    const int lane = threadIdx.x;
    if constexpr (kAligned) {
#pragma unroll
      for (int j = 0; j < kChunk; j += kRows) {
        const uint32_t vertex = of(steps[j + lane / kPieces].vertex);
        copy_async(reinterpret_cast<int4*>(to) + j * kPieces + lane, rows[vertex]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        copy_async(reinterpret_cast<Row*>(to) + j * kWarp + lane, rows[of(steps[j].vertex)]);
      }
    }
  }

 private:
  __device__ CopiedRows(const T* base, int64_t stride, int64_t channel, int64_t channels, int)
      : rows(base + (channel < channels ? channel : 0), stride),
        live(channel < channels) {}
  __device__ static int64_t channel_of(int64_t first) {
    if constexpr (kAligned) return first + threadIdx.x % kPieces * (kPiece / static_cast<int>(sizeof(T)));
    return first + static_cast<int64_t>(threadIdx.x) * N;
  }
};

// What waits at forks: this thread's column of the stack in shared memory. Its entries are kWarp rows apart.
template <typename Row>
struct WaitingRows {
  char* column;
  __device__ Row& operator[](uint32_t slot) const {
    static_assert(sizeof(Row) * kWarp % WalkStep::kSlotSize == 0);
    return *reinterpret_cast<Row*>(column + slot * static_cast<uint32_t>(sizeof(Row) * kWarp / WalkStep::kSlotSize));
  }
  // Zeros in all slots. The walk of a tree reads none that it has not written, but a schedule that is none may.
  __device__ void clear(int64_t length) const {
    for (uint32_t slot = 0; slot < walk_slots(length); ++slot) (*this)[slot * WalkStep::kSlotSize] = Row{};
  }
  static size_t bytes(int64_t length) { return walk_slots(length) * kWarp * sizeof(Row); }
};

// The steps that the warp holds, and a number beside each.
template <typename acc>
struct HeldSteps {
  alignas(16) WalkStep step[kHeldSteps];
  acc scalar[kHeldSteps];
};

// The steps of one chunk.
struct ChunkSteps {
  WalkStep step[kChunk];
  WalkStep next;  // the first of the next chunk

  __device__ ChunkSteps(const WalkStep* held, int first) {
    const uint4* const pairs = reinterpret_cast<const uint4*>(held + first % kHeldSteps);
#pragma unroll
    for (int j = 0; j < kChunk; j += 2) {
      const uint4 pair = pairs[j / 2];
      step[j] = {pair.x, pair.y};
      step[j + 1] = {pair.z, pair.w};
    }
    next = held[(first + kChunk) % kHeldSteps];
  }
  __device__ const WalkStep& after(int j) const { return j + 1 < kChunk ? step[j + 1] : next; }
};

// Walks all steps, `length` of them, of a tree with `vertices` vertices, backwards if kUp. `pass` has
// - Layout, the ChunkLayout of its rows;
// - request(chunk, steps), which starts the copies of the rows of kChunk steps;
// - scalar(vertex), which reads the number beside a step;
// - work(held, first, left, chunk), which takes the chunk that begins with step `first`, `left` steps before the end,
//   once its rows are there.
template <bool kUp, int kDepth, typename acc, typename Pass>
__device__ __forceinline__ void walk(
    const WalkStep* steps, int length, int64_t vertices, HeldSteps<acc>& held, char* ring, Pass& pass) {
  const int lane = threadIdx.x;
  const auto fetch = [&](int block) {
    const int i = block * kWarp + lane;
    const uint2 none = make_uint2(0, 0);
    const uint2 words = i < length ? reinterpret_cast<const uint2*>(steps)[kUp ? length - 1 - i : i] : none;
    const uint32_t forks = 32 - __clz(static_cast<int>(vertices));  // walk_forks(vertices)
    return WalkStep{words.x, words.y}.inside(static_cast<uint32_t>(vertices), WalkStep::kFirstSlot + forks);
  };
  const auto place = [&](int block) { return block % kStepBlocks * kWarp + lane; };
  const int chunks = (length + kChunk - 1) / kChunk;
  const auto request = [&](int chunk) {
    if (chunk < chunks) {
      pass.request(ring + chunk % kDepth * Pass::Layout::kBytes, held.step + chunk * kChunk % kHeldSteps);
    }
    close_copy_group();
  };
  acc scalar{};
#pragma unroll
  for (int block = 0; block < 2; ++block) {
    const WalkStep step = fetch(block);
    held.step[place(block)] = step;
    held.scalar[place(block)] = pass.scalar(step.vertex);
  }
  WalkStep coming = fetch(2);
  __syncwarp();
  static_assert(kDepth <= kDeepRing);
#pragma unroll 1
  for (int chunk = 0; chunk < kDepth - 1; ++chunk) request(chunk);
#pragma unroll 1
  for (int chunk = 0; chunk < chunks; ++chunk) {
    if (chunk % (kWarp / kChunk) == 0) {
      const int block = chunk * kChunk / kWarp;
      if (block > 0) held.scalar[place(block + 1)] = scalar;
      held.step[place(block + 2)] = coming;
      scalar = pass.scalar(coming.vertex);
      coming = fetch(block + 3);
    }
    wait_for_copy_groups<kDepth - 2>();
    __syncwarp();  // all threads have copied their part of the chunk, and all are done with the one before
    request(chunk + kDepth - 1);
    const int first = chunk * kChunk;
    pass.work(held, first, length - first, ring + chunk % kDepth * Pass::Layout::kBytes);
  }
  __syncwarp();
}

// What a step up reads: the vertex's own values, and the weights of their sums.
template <typename acc, int N, int kSums>
struct UpValue {
  Channels<acc, N * kSums> own;
  Channels<acc, N> weight;
};

template <typename T, typename acc, int N, int kSize>
__device__ void put_part(Channels<acc, kSize>& row, int from, const Pack<T, N>& pack) {
#pragma unroll
  for (int c = 0; c < N; ++c) row[from + c] = static_cast<acc>(pack.value[c]);
}

template <typename T, int N, typename acc, int kSize>
__device__ void write_part(T* to, const Channels<acc, kSize>& row, int from, bool really) {
  Channels<acc, N> part;
#pragma unroll
  for (int c = 0; c < N; ++c) part[c] = row[from + c];
  write_row(to, part, really);
}

// A chunk of the way up: x, the sum that comes from the children, becomes ξ = own + x, which is kept, and then w ξ for
// the parent. `pass` has read(), which gives own and w of a step, and keep(). A row may hold two such sums side by
// side, for the same weights.
template <typename Pass, typename acc, typename Row>
__device__ __forceinline__ void ascend(
    Pass& pass, const HeldSteps<acc>& held, int first, int left, char* chunk, Row& x, Row& popped) {
  constexpr int N = Pass::kWidth, kRow = sizeof(Row) / sizeof(acc);
  const ChunkSteps steps(held.step, first);
  typename Pass::Value values[kChunk];
#pragma unroll
  for (int j = 0; j < kChunk; ++j) values[j] = pass.read(chunk, j, held.scalar[first % kHeldSteps + j]);
#pragma unroll
  for (int j = 0; j < kChunk; ++j) {
    const WalkStep step = steps.step[j];
    // What the next step takes was left before this step, since a first child comes between a parent and its second.
    const Row next = pass.waiting[steps.after(j).own_slot()];
#pragma unroll
    for (int c = 0; c < kRow; ++c) {
      x[c] = (step.links & WalkStep::kLeaf ? 0 : x[c]) + (popped[c] + values[j].own[c]);
    }
    pass.keep(step.vertex, x, j < left);
#pragma unroll
    for (int c = 0; c < kRow; ++c) x[c] *= values[j].weight[c % N];
    if (step.links & WalkStep::kMiddleChild) {
      const Row others = pass.waiting[step.parent_slot()];
#pragma unroll
      for (int c = 0; c < kRow; ++c) x[c] += others[c];  // the next step is a leaf, which does not look at x
    }
    pass.waiting[step.parent_slot()] = x;
    popped = next;
  }
}

// A chunk of the way down: h of the parent becomes h of the vertex. `pass` has read(); descend(), which writes the
// results; and has_root, whether the first step is the root, to which nothing comes down.
template <typename Pass, typename acc, typename Row>
__device__ __forceinline__ void descend(
    Pass& pass, const HeldSteps<acc>& held, int first, int left, char* chunk, Row& h, Row& popped) {
  constexpr int kRow = sizeof(Row) / sizeof(acc);
  const ChunkSteps steps(held.step, first);
  typename Pass::Value values[kChunk];
#pragma unroll
  for (int j = 0; j < kChunk; ++j) values[j] = pass.read(chunk, j, held.scalar[first % kHeldSteps + j]);
#pragma unroll
  for (int j = 0; j < kChunk; ++j) {
    const WalkStep step = steps.step[j];
    const Row next = pass.waiting[steps.after(j).parent_slot()];
#pragma unroll
    for (int c = 0; c < kRow; ++c) h[c] = step.links & WalkStep::kFirstChild ? h[c] : popped[c];
    if (j == 0 && first == 0 && pass.has_root) values[j].forget_parent();
    pass.descend(step.vertex, j, values[j], h, j < left);
    pass.waiting[step.own_slot()] = h;
    popped = next;
  }
}

}  // namespace ssm
