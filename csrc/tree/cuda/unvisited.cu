#include "tree/cuda/unvisited.h"

#include "common/cuda/launch.h"
#include "common/cuda/unvisited.cuh"

namespace ssm {
namespace {

// Threads of a block that also looks at pieces.
constexpr unsigned kPieceThreads = 1024;

// Whether the pieces of a schedule are runs that make up the walk, and every step of a spine is one of its piece's. If
// so, all steps are walked once, and a spine reads no state but what its own piece has written. All threads of a block
// call, and get the answer.
__device__ bool pieces_fit(const int* schedule, const ScheduleLayout& layout) {
  const auto* const walk = reinterpret_cast<const WalkStep*>(schedule);
  const auto* const spine = reinterpret_cast<const WalkStep*>(schedule + layout.spine());
  const auto* const pieces = reinterpret_cast<const Piece*>(schedule + layout.pieces());
  const int length = static_cast<int>(layout.length), count = schedule[layout.count()];
  const uint32_t last = static_cast<uint32_t>(length - 1);
  bool fits = count >= 1 && count <= static_cast<int>(layout.most_pieces());
  for (int k = threadIdx.x / 32; fits && k < count; k += blockDim.x / 32) {
    const Piece own = pieces[k], next = pieces[k + 1];
    fits = own.begin <= next.begin && (k > 0 || own.begin == 0) && (k + 1 < count || next.begin == length) &&
           own.spine_begin >= 0 && own.spine_begin <= next.spine_begin && next.spine_begin <= length;
    if (!fits) break;
#pragma unroll 4
    for (int s = own.spine_begin + static_cast<int>(threadIdx.x % 32); s < next.spine_begin; s += 32) {
      const WalkStep step = spine[s];
      const int at = static_cast<int>(step.links);
      const uint32_t vertex = walk[min(max(at, 0), length - 1)].vertex;
      fits &= at >= own.begin && at < next.begin && min(vertex, last) == min(step.vertex, last);
    }
  }
  return __syncthreads_and(fits);
}

// A block takes one window of one sample.
__global__ void __launch_bounds__(kPieceThreads) clear_unvisited_kernel(const __grid_constant__ ScheduleVisits v) {
  extern __shared__ int4 memory[];
  const int64_t length = v.layout.length, windows = visit_windows(length);
  for (int64_t item = blockIdx.x; item < v.batch * windows; item += gridDim.x) {
    const int64_t sample = item / windows, number = item % windows;
    const int* const schedule = v.schedule + sample * v.layout.words();
    const VisitWindow window(reinterpret_cast<unsigned char*>(memory), number, length);
    window.start();
    const bool fits = !v.in_pieces || pieces_fit(schedule, v.layout);
    if (fits) {
      // A walk takes what is out of range for the last vertex.
      const auto* const walk = reinterpret_cast<const WalkStep*>(schedule);
      window.mark([&](int64_t step) { return min(static_cast<int64_t>(walk[step].vertex), length - 1); });
    }
    window.each_unmarked([&](int64_t vertex) { clear_token(v.results, v.batch, 1, length, sample, 0, 1, vertex); });
    if (!fits && number == 0) {
      clear_bytes(static_cast<char*>(v.sums.data) + sample * v.sums.bytes, v.sums.bytes, threadIdx.x, blockDim.x);
    }
    __syncthreads();
  }
}

}  // namespace

void launch_clear_unvisited(const char* op, const ScheduleVisits& visits) {
  if (visits.batch == 0) return;
  const int64_t length = visits.layout.length;
  const unsigned threads = visits.in_pieces ? kPieceThreads : visit_threads(length);
  const int64_t blocks = visit_blocks(visits.batch, length);
  launch_kernel(op, clear_unvisited_kernel,
      {dim3(grid_blocks(blocks, op)), dim3(threads), visit_bytes(length), 1, current_stream()}, visits);
}

}  // namespace ssm
