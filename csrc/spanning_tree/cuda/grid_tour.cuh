// Roots the tree of a grid with all threads of a block. A tour leads along every arc of the tree, an edge in one
// direction; at each vertex it goes on by the next side. The places of the arcs in the tour tell parents, depths and
// the order of the vertices in a level, so that a path of thousands of vertices needs no more barriers than a bush.
#pragma once

#include "common/cuda/reduce.cuh"
#include "spanning_tree/cuda/graph.cuh"

namespace ssm {

// The sum over the threads of the block before this one. `warp_sum` holds 32 words. Every thread calls, and between two
// calls there is a barrier.
__device__ inline uint32_t prefix_over_block(uint32_t own, uint32_t* warp_sum) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t upto = prefix_over_warp(static_cast<int>(own), lane);
  if (lane == 31) warp_sum[warp] = upto;
  __syncthreads();
  const int before = sum_over_columns(lane < warp ? static_cast<int>(warp_sum[lane]) : 0, 1);
  return before + upto - own;
}

// A thread's share of `count` entries is the run [begin, end). Its length is odd, so that threads side by side read
// from different banks.
struct Run {
  int begin, end;

  __device__ explicit Run(int count) {
    const int length = (count + static_cast<int>(blockDim.x) - 1) / static_cast<int>(blockDim.x) | 1;
    begin = min(count, static_cast<int>(threadIdx.x) * length);
    end = min(count, begin + length);
  }
};

// Exclusive prefix sum in place, modulo 2^32. By one block; ends with a barrier.
__device__ inline void prefix_in_place(uint32_t* value, int count, uint32_t* warp_sum) {
  const Run run(count);
  uint32_t sum = 0;
  for (int i = run.begin; i < run.end; ++i) sum += value[i];
  sum = prefix_over_block(sum, warp_sum);
  for (int i = run.begin; i < run.end; ++i) {
    const uint32_t own = value[i];
    value[i] = sum;
    sum += own;
  }
  __syncthreads();
}

// Grids of 2^14 vertices do not fit into shared memory, so that arcs, places and depths have at most 15 bits.
static_assert(4 * grid_tour_words(1 << 14) > kSpanningShared);

// One sample's tour. Each step is for all threads of a block and ends with a barrier. A word has two numbers of 16
// bits, which is enough for every grid in shared memory.
//
// arc: first the arc that comes next; then the number of the splitter before it, and the distance from there; in the
// end the vertices of each level. change: what an arc does to the depth and to the order; in the end the vertices level
// by level. vertex: first its arcs; then its first place in the tour; in the end its place in the depth-first order and
// its depth. remaining: the arcs from a splitter to the tour's end; before that, the tree's sides may lie there.
struct GridTour {
  GridGraph graph;
  int vertices, arcs;
  uint32_t root;
  uint32_t *remaining, *arc, *change, *vertex, *warp_sum;
  int splitter_bits = 0, origin = 0;

  // `work` has grid_tour_words() words.
  __device__ GridTour(const GridGraph& grid, int start, uint32_t* splitters, uint32_t* work, uint32_t* sums)
      : graph(grid),
        vertices(grid.height * grid.width),
        arcs(2 * (vertices - 1)),
        root(start),
        remaining(splitters),
        arc(work),
        change(work + arcs),
        vertex(work + 2 * arcs),
        warp_sum(sums) {
    while ((arcs + (1 << splitter_bits) - 1) >> splitter_bits > static_cast<int>(blockDim.x)) ++splitter_bits;
  }

  static __device__ uint32_t pack(uint32_t high, uint32_t low) { return high << 16 | low; }
  static __device__ uint32_t high(uint32_t x) { return x >> 16; }
  static __device__ uint32_t low(uint32_t x) { return x & 0xffff; }

  // Of every 2^splitter_bits arcs one is a splitter. Which one is hashed, since in a regular tree the tour might miss
  // every splitter of a regular choice for a long time. The first arc is a splitter.
  __device__ uint32_t splitter(uint32_t number) const {
    const uint32_t hashed = number * 2654435769u >> 20;
    return number << splitter_bits | (hashed & ((1u << splitter_bits) - 1u));
  }

  // Numbers the arcs that leave each vertex, in the order of its sides.
  __device__ void number_arcs(const uint32_t* sides) {
    const Run run(vertices);
    uint32_t first = 0;
    for (int v = run.begin; v < run.end; ++v) first += __popc(sides_of(sides, v));
    first = prefix_over_block(first, warp_sum);
    for (int v = run.begin; v < run.end; ++v) {
      const uint32_t own = sides_of(sides, v);
      vertex[v] = first << 4 | own;
      first += __popc(own);
    }
    __syncthreads();
  }

  // After the arc that comes in by a side follows the arc that leaves by the vertex's next side, or by its first.
  __device__ void link_arcs() {
    for (int v = threadIdx.x; v < vertices; v += blockDim.x) {
      const uint32_t own = vertex[v], first = own >> 4, end = first + __popc(own & 15u);
      uint32_t next = first;
#pragma unroll
      for (uint32_t side = 0; side < 4; ++side) {
        if ((own >> side & 1u) == 0) continue;
        const uint32_t other = vertex[v + graph.step(side)];
        next = next + 1 < end ? next + 1 : first;
        arc[(other >> 4) + __popc(other & ((1u << (3 - side)) - 1u))] = next;
      }
    }
    __syncthreads();
  }

  // Walks from the thread's splitter to the next one. Returns its number, and the distance above it; the last splitter
  // of the tour gets its own number and no distance.
  __device__ uint32_t walk() {
    const uint32_t own = threadIdx.x, start = splitter(own);
    uint32_t next = own, distance = 0;
    if (start < static_cast<uint32_t>(arcs)) {
      uint32_t at = start;
      do {
        const uint32_t further = arc[at];
        arc[at] = pack(own, distance++);
        at = further;
        next = at >> splitter_bits;
      } while (at != splitter(next));
    }
    return next == 0 ? pack(0, own) : pack(distance, next);
  }

  // Ranks the splitters by pointer jumping. Each thread keeps its own.
  __device__ void rank(uint32_t own) {
    const int number = threadIdx.x, splitters = (arcs + (1 << splitter_bits) - 1) >> splitter_bits;
    const int jumps = 32 - __clz(splitters - 1);
    uint32_t *to = jumps % 2 == 0 ? remaining : change, *other = jumps % 2 == 0 ? change : remaining;
    for (int i = 0; i < jumps; ++i) {
      if (number < splitters) to[number] = own;
      __syncthreads();
      if (number < splitters) {
        const uint32_t further = to[low(own)];
        own = pack(high(own) + high(further), low(further));
      }
      uint32_t* const swap = to;
      to = other;
      other = swap;
    }
    if (number < splitters) to[number] = high(own);
    const uint32_t start = arc[vertex[root] >> 4];
    __syncthreads();
    origin = static_cast<int>(remaining[high(start)]) - static_cast<int>(low(start));
  }

  // The place of an arc in the tour that begins with the root's first arc.
  __device__ int place_of(uint32_t k) const {
    const uint32_t at = arc[k];
    const int place = origin - static_cast<int>(remaining[high(at)]) + static_cast<int>(low(at));
    return place < 0 ? place + arcs : place;
  }

  // Finds parents. The tour leaves a vertex for its parent last, so that it visits first the children on the sides
  // behind the parent's, and then those before it. In the order of the children's numbers these two groups change
  // places: `change` has by how much a child's subtree moves, and that depth grows by one, where the tour goes down to
  // it, and takes both back where the tour comes up again.
  __device__ void find_parents(int64_t* parent) {
    for (int v = threadIdx.x; v < vertices; v += blockDim.x) {
      const uint32_t own = vertex[v], first = own >> 4;
      const int degree = __popc(own & 15u);
      int place[4], least = arcs, most = -1, up = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i >= degree) continue;
        place[i] = place_of(first + i);
        least = min(least, place[i]);
        if (place[i] > most) up = i;
        most = max(most, place[i]);
      }
      const bool is_root = static_cast<uint32_t>(v) == root;
      if (is_root) up = -1;
      const int earlier = is_root ? 0 : least - place[0], later = is_root ? 0 : most - place[0];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i >= degree || i == up) continue;
        const int end = i + 1 < degree ? place[(i + 1) % 4] : is_root ? arcs : place[0];
        const uint32_t down = (static_cast<uint32_t>(i < up ? earlier : later) << 16) + 1u;
        change[place[i]] = down;
        change[end - 1] = 0u - down;
      }
      vertex[v] = least;
      uint32_t open = own & 15u;
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        if (i < up) open &= open - 1;
      }
      parent[v] = is_root ? v : v + graph.step(__ffs(open) - 1);
    }
    __syncthreads();
  }

  // Gives every vertex its depth and its place in the depth-first order, and makes room for each level's vertices: of
  // the arcs up to a vertex, depth more lead down than up.
  __device__ void count_levels() {
    for (int i = threadIdx.x; i < vertices; i += blockDim.x) arc[i] = 0;
    prefix_in_place(change, arcs, warp_sum);
    for (int v = threadIdx.x; v < vertices; v += blockDim.x) {
      const uint32_t first = vertex[v], sum = change[first], depth = low(sum);
      const int moved = static_cast<int>(sum) >> 16;
      vertex[v] = pack((static_cast<int>(first + depth) + moved) / 2, depth);
      atomicAdd(arc + depth, 1u);
    }
    __syncthreads();
    prefix_in_place(arc, vertices, warp_sum);
  }

  // Puts the vertices into their levels, in any order. After it, arc[depth] is the end of a level.
  __device__ void fill_levels() {
    for (int v = threadIdx.x; v < vertices; v += blockDim.x) {
      const uint32_t own = vertex[v];
      change[atomicAdd(arc + low(own), 1u)] = pack(high(own), v);
    }
    __syncthreads();
  }

  // The place of a vertex in its level is the number of vertices that come before it depth first.
  __device__ void write_order(int64_t* order) const {
    for (int i = threadIdx.x; i < vertices; i += blockDim.x) {
      const uint32_t own = change[i], depth = low(vertex[low(own)]);
      const uint32_t begin = depth > 0 ? arc[depth - 1] : 0, end = arc[depth];
      uint32_t place = begin;
#pragma unroll 4
      for (uint32_t k = begin; k < end; ++k) place += change[k] < own;
      order[place] = low(own);
    }
  }

  // Writes parents and order. `sides` are the tree's.
  __device__ void root_tree(const uint32_t* sides, int64_t* parent, int64_t* order) {
    if (vertices == 1) {
      if (threadIdx.x == 0) parent[0] = order[0] = 0;
      return;
    }
    number_arcs(sides);
    link_arcs();
    rank(walk());
    find_parents(parent);
    count_levels();
    fill_levels();
    write_order(order);
  }
};

}  // namespace ssm
