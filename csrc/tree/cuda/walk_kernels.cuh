// The kernels of a walk, for whatever is scanned. `Scan` has
// - Launch, a WalkLaunch;
// - Up and Down, the passes;
// - kGoesDown, whether there is a way down;
// - rows(launch, sample, slice), a thread's channels of all tensors;
// - finish(launch, rows, down, sample, slice, piece), which writes what the way down has summed up: zeros for a piece
//   that does not exist.
#pragma once

#include "tree/cuda/pieces.cuh"
#include "tree/cuda/trunk.h"
#include "tree/cuda/walk_launch.h"

namespace ssm {

// Bytes of shared memory: the ring, then the stack.
template <typename Scan, int kDepth>
constexpr int ring_bytes() {
  constexpr int kUp = Scan::Up::Layout::kBytes, kDown = Scan::Down::Layout::kBytes;
  return kDepth * (kUp > kDown ? kUp : kDown);
}
template <typename Scan, int kDepth>
size_t walk_bytes(int64_t length) {
  return ring_bytes<Scan, kDepth>() + WaitingRows<typename Scan::Up::Row>::bytes(length);
}

template <typename Scan, int kDepth>
__global__ void __launch_bounds__(kWarp) walk_kernel(typename Scan::Launch l) {
  using Up = typename Scan::Up;
  using Down = typename Scan::Down;
  extern __shared__ int4 memory[];
  __shared__ HeldSteps<typename Up::acc> held;
  char *const ring = reinterpret_cast<char*>(memory), *const stack = ring + ring_bytes<Scan, kDepth>();
  char* const column = stack + threadIdx.x * sizeof(typename Up::Row);
  const int64_t sample = blockIdx.x / l.slices, slice = blockIdx.x % l.slices;
  const auto rows = Scan::rows(l, sample, slice);
  const WalkStep* const steps = reinterpret_cast<const WalkStep*>(l.schedule + sample * l.layout().words());
  const int length = static_cast<int>(l.length);
  Up up(rows, column);
  up.waiting.clear(l.length);
  walk<true, kDepth>(steps, length, l.length, held, ring, up);
  if constexpr (Scan::kGoesDown) {
    __threadfence();  // copies read ξ again
    __syncwarp();
    Down down(rows, column);
    walk<false, kDepth>(steps, length, l.length, held, ring, down);
    Scan::finish(l, rows, down, sample, slice, 0);
  }
}

// The piece of a block, and the rows of its sums.
template <typename Scan>
struct PieceBlock {
  using acc = typename Scan::Up::acc;
  int64_t sample, slice, distance;  // from a row of sums to the next
  int piece;
  bool exists, has_children;
  const WalkStep *steps, *spine;
  int length, spine_length;
  acc* sums;

  __device__ PieceBlock(const typename Scan::Launch& l) {
    const int64_t most = l.most_pieces();
    slice = blockIdx.x % l.slices;
    piece = static_cast<int>(blockIdx.x / l.slices % most);
    sample = blockIdx.x / l.slices / most;
    const int* const schedule = l.schedule + sample * l.layout().words();
    const int count = min(schedule[l.layout().count()], static_cast<int>(most));
    exists = piece < count;
    if (!exists) return;
    const Piece* const pieces = reinterpret_cast<const Piece*>(schedule + l.layout().pieces());
    const Piece own = pieces[piece], next = pieces[piece + 1];
    has_children = piece + 1 < count && next.parent == piece;
    // Steps and spines are L each at most, whatever the schedule says.
    const auto inside = [&](int place, int least) { return min(max(place, least), static_cast<int>(l.length)); };
    const int begin = inside(own.begin, 0), spine_begin = inside(own.spine_begin, 0);
    steps = reinterpret_cast<const WalkStep*>(schedule) + begin;
    spine = reinterpret_cast<const WalkStep*>(schedule + l.layout().spine()) + spine_begin;
    length = inside(next.begin, begin) - begin;
    spine_length = inside(next.spine_begin, spine_begin) - spine_begin;
    const int64_t channel = (slice * kWarp + threadIdx.x) * Scan::Up::kWidth;
    distance = most * l.channels;
    sums = static_cast<acc*>(l.piece_sums) + (sample * (1 + 2 * Scan::Up::kSums) * most + piece) * l.channels +
           (channel < l.channels ? channel : 0);
  }
};

template <typename Scan, int kDepth>
__global__ void __launch_bounds__(kWarp) piece_up_kernel(typename Scan::Launch l) {
  using Up = typename Scan::Up;
  using Row = typename Up::Row;
  extern __shared__ int4 memory[];
  __shared__ HeldSteps<typename Up::acc> held;
  char *const ring = reinterpret_cast<char*>(memory), *const stack = ring + ring_bytes<Scan, kDepth>();
  const PieceBlock<Scan> block(l);
  if (!block.exists) return;
  const auto rows = Scan::rows(l, block.sample, block.slice);
  char* const column = stack + threadIdx.x * sizeof(Row);
  PieceUp<Up> up(rows, column);
  // Zeros, since nothing waits for the last vertex of the spine: its other children belong to other pieces.
  up.waiting.clear(l.length);
  walk<true, kDepth>(block.steps, block.length, l.length, held, ring, up);
  __threadfence();  // copies read ξ again
  __syncwarp();
  SpineSums<typename Scan::Down> sums(rows, column);
  sums.has_root = block.piece == 0;
  walk<true, kDepth>(block.spine, block.spine_length, l.length, held, ring, sums);
  sums.write(block.sums, block.distance, up.top);
}

template <typename Scan, int kDepth>
__global__ void __launch_bounds__(kWarp) piece_down_kernel(typename Scan::Launch l) {
  using Down = typename Scan::Down;
  constexpr int N = Down::N, kSums = Down::kSums;
  extern __shared__ int4 memory[];
  __shared__ HeldSteps<typename Down::acc> held;
  char *const ring = reinterpret_cast<char*>(memory), *const stack = ring + ring_bytes<Scan, kDepth>();
  char* const column = stack + threadIdx.x * sizeof(typename Down::Row);
  const PieceBlock<Scan> block(l);
  const auto rows = Scan::rows(l, block.sample, block.slice);
  if (block.exists && block.has_children) {
    SpineRepair<Down> repair(rows, column);
    read_sums<typename Down::acc, N>(block.sums + block.distance, block.distance, repair.coming);
    walk<true, kDepth>(block.spine, block.spine_length, l.length, held, ring, repair);
    __threadfence();
    __syncwarp();
  }
  if constexpr (Scan::kGoesDown) {
    Down down(rows, column);
    if (block.exists) {
      down.has_root = block.piece == 0;
      read_sums<typename Down::acc, N>(block.sums + (1 + kSums) * block.distance, block.distance, down.row);
      down.popped = down.row;
      down.waiting.clear(l.length);
      walk<false, kDepth>(block.steps, block.length, l.length, held, ring, down);
    }
    Scan::finish(l, rows, down, block.sample, block.slice, block.piece);
  }
}

// Whether all blocks, each with so many bytes of dynamic shared memory, are on the GPU at once.
template <typename acc>
bool has_room(int64_t blocks, size_t bytes) {
  const Device device = present_device();
  const size_t each = bytes + sizeof(HeldSteps<acc>);
  if (each > device.block_shared) return false;
  const size_t at_once = device.multiprocessor_shared / (each + device.reserved_shared);
  return blocks <= device.multiprocessors * static_cast<int64_t>(at_once);
}

template <typename Scan>
void launch_pieces(const char* op, const typename Scan::Launch& l) {
  const int64_t blocks = l.batch * l.most_pieces() * l.slices;
  const size_t bytes = walk_bytes<Scan, kShallowRing>(l.length);
  constexpr bool kDouble = std::is_same_v<typename Scan::Up::acc, double>;
  launch_teams(op, piece_up_kernel<Scan, kShallowRing>, blocks, 1, kWarp, bytes, l);
  launch_trunk(op, {l.batch, l.channels, l.layout(), l.schedule, l.piece_sums, kDouble, Scan::Up::kSums,
                       Scan::Up::kBoth, Scan::kGoesDown});
  launch_teams(op, piece_down_kernel<Scan, kShallowRing>, blocks, 1, kWarp, bytes, l);
}

// l.slices are those of the scan's width.
template <typename Scan>
void launch_walk(const char* op, const typename Scan::Launch& l) {
  if (l.cut > 0) return launch_pieces<Scan>(op, l);
  const int64_t blocks = l.batch * l.slices;
  const size_t deep = walk_bytes<Scan, kDeepRing>(l.length), shallow = walk_bytes<Scan, kShallowRing>(l.length);
  if (has_room<typename Scan::Up::acc>(blocks, deep)) {
    launch_teams(op, walk_kernel<Scan, kDeepRing>, blocks, 1, kWarp, deep, l);
  } else {
    launch_teams(op, walk_kernel<Scan, kShallowRing>, blocks, 1, kWarp, shallow, l);
  }
}

}  // namespace ssm
