// The selective scan from the leaves of a tree to its root, as a walk. A thread has all states of one channel in
// registers. The source Δ·B·x, the weight exp(Δ·A) and the output C·h are made as rows are read. The forward pass
// writes no state. The backward pass keeps what comes into each chunk of steps, and makes a chunk's states again from
// it.
#pragma once

#include "common/cuda/reduce.cuh"
#include "subtree_scan/cuda/rows.cuh"

namespace ssm {

// A vertex's x and Δ·x, and the steps of its token and of its edge in units of Δ.
template <typename acc>
struct TokenValues {
  acc x, step, edge, source;
};

// The way up. In the backward pass it keeps what the way down needs, and writes no results.
template <typename Kind>
struct SubtreeUp {
  using scalar_t = typename Kind::scalar_t;
  using acc = typename Kind::acc;
  static constexpr int kStates = Kind::kStates;
  using Rows = SubtreeRows<Kind>;
  using Row = Channels<acc, kStates>;
  using Value = typename Rows::Value;
  using Layout = ChunkLayout<Value, Value, Value>;

  const Rows& t;
  TokenWeights<Kind>& weights;
  StateRows<acc, kStates> stack;
  StateRows<acc, kStates> incoming, crossing;  // kept for the backward pass
  VertexRows<scalar_t> y;
  acc* root_state;  // of this channel, `states` numbers
  int last_crossing;
  Row state{};
  uint32_t pushed = 0;  // the slots into which the present chunk has put something, a bit each
  int crossed = 0;      // rows kept so far of what waited from before its chunk

  __device__ acc scalar(uint32_t) const { return acc(0); }
  __device__ void request(char* chunk, const WalkStep* steps) const {
    Layout::template request<0>(chunk, steps, t.x);
    Layout::template request<1>(chunk, steps, t.delta);
    Layout::template request<2>(chunk, steps, t.delta, [this](uint32_t vertex) { return t.edge_of(vertex); });
  }

  template <typename From>
  __device__ static TokenValues<acc> read(const Rows& t, char* chunk, int j) {
    const int lane = threadIdx.x;
    TokenValues<acc> token;
    token.x = t.value(*From::template at<0>(chunk, j, lane));
    token.step = t.step(*From::template at<1>(chunk, j, lane));
    token.edge = t.step(*From::template at<2>(chunk, j, lane));
    token.source = token.step * kUnit<scalar_t> * token.x;
    return token;
  }

  __device__ static uint32_t own_slot(WalkStep step) { return step.own_slot() / WalkStep::kSlotSize; }
  __device__ static uint32_t parent_slot(WalkStep step) { return step.parent_slot() / WalkStep::kSlotSize; }
  __device__ static bool forks(WalkStep step) { return own_slot(step) >= WalkStep::kFirstSlot; }
  // Whether the state waits for its siblings. The state of a first child is handed to the next step instead.
  __device__ static bool waits(WalkStep step) { return parent_slot(step) >= WalkStep::kFirstSlot; }

  __device__ void work(const HeldSteps<acc>& held, int first, int left, char* chunk) {
    weights.advance(held.step, first);
    __syncwarp();
#pragma unroll 2
    for (int j = 0; j < kChunk; ++j) {
      if (j >= left) break;
      visit(held.step[first % kHeldSteps + j], first + j, j, read<Layout>(t, chunk, j));
    }
  }

  __device__ void visit(WalkStep step, int at, int j, const TokenValues<acc>& token) {
    const int place = static_cast<int>(t.length) - 1 - at;  // in the order of the backward pass
    if constexpr (Kind::kBackward) {
      if (place % kChunk == kChunk - 1) {
        incoming.write(place / kChunk, state);
        pushed = 0;
      }
    }
    if (step.links & WalkStep::kLeaf) state = Row{};
    if (forks(step)) add_waiting(step);
    const Row B = weights.of_input(j);
#pragma unroll
    for (int n = 0; n < kStates; ++n) state[n] += token.source * B[n];
    if constexpr (!Kind::kBackward) {
      put_out(step.vertex, j, place == 0);
      if (place == 0) return;
    }
#pragma unroll
    for (int n = 0; n < kStates; ++n) state[n] *= decay(token.edge * t.rate[n]);
    if (waits(step)) leave(step);
  }

  __device__ void add_waiting(WalkStep step) {
    const uint32_t slot = own_slot(step);
    const Row others = stack.read(slot - WalkStep::kFirstSlot);
    if constexpr (Kind::kBackward) {
      if ((pushed >> slot & 1u) == 0) crossing.write(min(crossed++, last_crossing), others);
      pushed &= ~(1u << slot);
    }
#pragma unroll
    for (int n = 0; n < kStates; ++n) state[n] += others[n];
  }

  __device__ void leave(WalkStep step) {
    const uint32_t slot = parent_slot(step);
    if (step.links & WalkStep::kMiddleChild) {
      const Row others = stack.read(slot - WalkStep::kFirstSlot);
#pragma unroll
      for (int n = 0; n < kStates; ++n) state[n] += others[n];  // the next step is a leaf, which does not look at it
    } else {
      pushed |= 1u << slot;
    }
    stack.write(slot - WalkStep::kFirstSlot, state);
  }

  __device__ void put_out(uint32_t vertex, int j, bool is_root) const {
    const Row C = weights.of_output(j);
    Channels<acc, 4> parts{};
#pragma unroll
    for (int n = 0; n < kStates; ++n) parts[n % 4] += C[n] * state[n];
    if (!t.live) return;
    *y[vertex] = static_cast<scalar_t>((parts[0] + parts[1]) + (parts[2] + parts[3]));
    if (!is_root) return;
#pragma unroll
    for (int n = 0; n < kStates; ++n) {
      if (n < weights.states) root_state[n] = state[n];
    }
  }
};

// The way down with G, to every gradient. A chunk's states are made again first, from its last step to its first. With
// u = Δ B x, w = exp(Δe A) and y = C·h: G = C ∂y + w G_parent, ∂C = Σ_channels h ∂y, ∂B = Σ_channels Δ x G,
// ∂x = Δ B·G, ∂Δ = x B·G, and t = w h G_parent gives ∂Δe = A·t and ∂A = Σ_vertices Δe t.
template <typename Kind>
struct SubtreeDown {
  using scalar_t = typename Kind::scalar_t;
  using acc = typename Kind::acc;
  static constexpr int kStates = Kind::kStates, kWeights = Kind::kWeights;
  using Up = SubtreeUp<Kind>;
  using Rows = SubtreeRows<Kind>;
  using Row = Channels<acc, kStates>;
  using Kept = StateRows<acc, kStates>;
  using Value = typename Rows::Value;
  using Layout = ChunkLayout<Value, Value, Value, Value>;
  static constexpr int kSlots = 4;  // of the chunk's own stack, in which at most kMostCrossing wait at a time

  const Rows& t;
  TokenWeights<Kind>& weights;
  Kept stack, chunk_stack, chunk_states;
  Kept incoming, crossing;
  VertexRows<scalar_t> grad_x, grad_delta;
  VertexRows<acc> grad_input, grad_edge;  // the two parts of delta's, if the edge has another token's step
  acc* grad_weights;                      // of this sample and slice
  int last_crossing;
  int crossed;
  Row gradient;  // of the root's state, then of the last vertex's
  Row coming{};
  Row grad_rate{}, chunk_rate;  // sums of all steps and of the chunk's
  acc grad_bias = 0, chunk_bias;

  __device__ acc scalar(uint32_t) const { return acc(0); }
  __device__ void request(char* chunk, const WalkStep* steps) const {
    Layout::template request<0>(chunk, steps, t.x);
    Layout::template request<1>(chunk, steps, t.delta);
    Layout::template request<2>(chunk, steps, t.delta, [this](uint32_t vertex) { return t.edge_of(vertex); });
    Layout::template request<3>(chunk, steps, t.grad_y);
  }

  __device__ void work(const HeldSteps<acc>& held, int first, int left, char* chunk) {
    weights.advance(held.step, first);
    __syncwarp();
    const WalkStep* const steps = held.step + first % kHeldSteps;
    const int count = min(left, kChunk);
    if (first == 0) request_incoming(0);
    compute_states(steps, count, chunk);
    request_incoming(first / kChunk + 1);
    chunk_rate = Row{};
    chunk_bias = 0;
#pragma unroll 1
    for (int j = 0; j < count; ++j) visit(steps[j], first + j, j, chunk);
#pragma unroll
    for (int n = 0; n < kStates; ++n) grad_rate[n] += chunk_rate[n];
    grad_bias += chunk_bias;
  }

  __device__ void request_incoming(int chunk) {
    coming = (chunk + 1) * kChunk <= static_cast<int>(t.length) ? incoming.read(chunk) : Row{};
  }

  // How many of the chunk's vertices take what waited from before the chunk.
  __device__ static int count_crossing(const WalkStep* steps, int count) {
    uint32_t pushed = 0;
    int crossing = 0;
    for (int j = count - 1; j >= 0; --j) {
      const WalkStep step = steps[j];
      if (Up::forks(step)) {
        crossing += (pushed >> Up::own_slot(step) & 1u) == 0;
        pushed &= ~(1u << Up::own_slot(step));
      }
      if (Up::waits(step) && (step.links & WalkStep::kMiddleChild) == 0) pushed |= 1u << Up::parent_slot(step);
    }
    return crossing;
  }

  // As SubtreeUp::visit does, with what comes from before the chunk as it was kept. The slots of the chunk's own stack
  // are reused in turn, since those that wait in a chunk have neighbouring numbers. A middle child whose slot is empty
  // leaves nothing, since nobody in the chunk reads it.
  __device__ void compute_states(const WalkStep* steps, int count, char* chunk) {
    int next = crossed -= count_crossing(steps, count);
    uint32_t pushed = 0;
    Row state = coming;
#pragma unroll 1
    for (int j = count - 1; j >= 0; --j) {
      const WalkStep step = steps[j];
      const TokenValues<acc> token = Up::template read<Layout>(t, chunk, j);
      if (step.links & WalkStep::kLeaf) state = Row{};
      if (Up::forks(step)) {
        const uint32_t slot = Up::own_slot(step);
        const bool here = (pushed >> slot & 1u) != 0;
        add(state, here ? chunk_stack.at(slot % kSlots) : crossing.at(max(0, min(next++, last_crossing))));
        pushed &= ~(1u << slot);
      }
      const Row B = weights.of_input(j);
#pragma unroll
      for (int n = 0; n < kStates; ++n) state[n] += token.source * B[n];
      chunk_states.write(j, state);
#pragma unroll
      for (int n = 0; n < kStates; ++n) state[n] *= decay(token.edge * t.rate[n]);
      if (Up::waits(step)) {
        const uint32_t slot = Up::parent_slot(step);
        if (step.links & WalkStep::kMiddleChild) {
          if ((pushed >> slot & 1u) == 0) continue;
          add(state, chunk_stack.at(slot % kSlots));
        }
        pushed |= 1u << slot;
        chunk_stack.write(slot % kSlots, state);
      }
    }
  }

  __device__ static void add(Row& state, const typename Kept::Piece* others) {
#pragma unroll
    for (int q = 0; q < Kept::kPieces; ++q) {
      const auto piece = others[q * kWarp];
#pragma unroll
      for (int k = 0; k < Kept::kPiece; ++k) state[q * Kept::kPiece + k] += piece.value[k];
    }
  }

  __device__ void visit(WalkStep step, int at, int j, char* chunk) {
    TokenValues<acc> token = Up::template read<Layout>(t, chunk, j);
    if (at == 0) token.edge = 0;  // the root has no edge, so that its gradient is taken as it is
    const acc upstream = t.value(*Layout::template at<3>(chunk, j, threadIdx.x));
    if (Up::waits(step)) gradient = stack.read(Up::parent_slot(step) - WalkStep::kFirstSlot);
    const Row B = weights.of_input(j), C = weights.of_output(j), h = chunk_states.read(j);
    acc part[kWeights], of_input = 0, of_edge = 0;
#pragma unroll
    for (int n = 0; n < kStates; ++n) {
      const acc from_parent = decay(token.edge * t.rate[n]) * gradient[n], exponent = h[n] * from_parent;
      of_edge += t.rate[n] * exponent;
      chunk_rate[n] += token.edge * exponent;
      gradient[n] = from_parent + C[n] * upstream;
      of_input += B[n] * gradient[n];
      part[n] = token.source * gradient[n];
      part[kStates + n] = h[n] * upstream;
    }
    if (Up::forks(step)) stack.write(Up::own_slot(step) - WalkStep::kFirstSlot, gradient);
    write(step.vertex, token, of_input, of_edge);
    const acc sum = sums_over_warp(part);
    if (threadIdx.x < kWeights) grad_weights[static_cast<int64_t>(step.vertex) * kWeights + threadIdx.x] = sum;
  }

  __device__ void write(uint32_t vertex, const TokenValues<acc>& token, acc of_input, acc of_edge) {
    constexpr acc kPerRate = sizeof(scalar_t) == 4 ? 1 / kLog2E : 1;  // `rate` is A in other units
    const acc input = Rows::slope(token.step) * token.x * of_input;
    const acc edge = Rows::slope(token.edge) * kPerRate * of_edge;
    chunk_bias += input + edge;
    if (!t.live) return;
    *grad_x[vertex] = static_cast<scalar_t>(token.step * kUnit<scalar_t> * of_input);
    if (t.next) {
      *grad_input[vertex] = input;
      *grad_edge[t.edge_of(vertex)] = edge;
    } else {
      *grad_delta[vertex] = static_cast<scalar_t>(input + edge);
    }
  }
};

template <typename Kind>
struct SubtreeShared {
  using acc = typename Kind::acc;
  static constexpr int kDepth = kSubtreeRing;
  static constexpr int64_t kRow = StateRows<acc, Kind::kStates>::kSize;
  static constexpr int64_t kRing =
      kDepth * (Kind::kBackward ? SubtreeDown<Kind>::Layout::kBytes : SubtreeUp<Kind>::Layout::kBytes);
  static constexpr int64_t kWeights = kChunk * Kind::kWeights;
  static constexpr int64_t kChunkRows = Kind::kBackward ? kChunk + SubtreeDown<Kind>::kSlots : 0;

  static int64_t bytes(int64_t length) {
    const int64_t numbers = kWeights + (kChunkRows + walk_forks(length)) * kRow;
    return kRing + numbers * static_cast<int64_t>(sizeof(acc));
  }
};

template <typename Kind>
__global__ void __launch_bounds__(kWarp) subtree_scan_kernel(const __grid_constant__ SubtreeScanLaunch l) {
  using scalar_t = typename Kind::scalar_t;
  using acc = typename Kind::acc;
  using Shared = SubtreeShared<Kind>;
  extern __shared__ int4 memory[];
  __shared__ HeldSteps<acc> held;
  char* const ring = reinterpret_cast<char*>(memory);
  acc* const numbers = reinterpret_cast<acc*>(ring + Shared::kRing);
  acc *const chunk_rows = numbers + Shared::kWeights, *const stack = chunk_rows + Shared::kChunkRows * Shared::kRow;

  const int64_t block = blockIdx.x;
  const SubtreeRows<Kind> rows(l, block);
  TokenWeights<Kind> weights(l, rows.sample, numbers);
  const WalkStep* const steps =
      reinterpret_cast<const WalkStep*>(l.schedule + rows.sample * ScheduleLayout::of(l.batch, l.length).words());
  const int length = static_cast<int>(l.length);
  const int64_t chunks = subtree_chunks(l.length), first = rows.sample * l.length * l.channels + rows.channel;
  const auto written = [&](void* base) {
    return VertexRows<scalar_t>(static_cast<scalar_t*>(base) + first, l.channels);
  };
  acc* const incoming = static_cast<acc*>(l.incoming) + block * chunks * Shared::kRow;
  acc* const crossing = static_cast<acc*>(l.crossing) + block * kMostCrossing * chunks * Shared::kRow;
  const int last_crossing = static_cast<int>(kMostCrossing * chunks - 1);
  acc* const root_state = static_cast<acc*>(l.root_state) + rows.own * l.states;  // in the forward pass

  // Zeros. The walk of a tree reads no row of the stack that it has not written, but a schedule that is none may.
  const StateRows<acc, Kind::kStates> waiting(stack);
  for (uint32_t fork = 0; fork < walk_forks(l.length); ++fork) waiting.write(fork, {});

  SubtreeUp<Kind> up{rows, weights, stack, incoming, crossing, written(l.y), root_state, last_crossing};
  walk<true, Shared::kDepth>(steps, length, l.length, held, ring, up);
  if constexpr (Kind::kBackward) {
    const auto wide = [&](void* base) { return VertexRows<acc>(static_cast<acc*>(base) + first, l.channels); };
    acc* const grad_weights =
        static_cast<acc*>(l.grad_weights) + (rows.slice * l.batch + rows.sample) * l.length * Kind::kWeights;
    SubtreeDown<Kind> down{rows, weights, stack, chunk_rows + kChunk * Shared::kRow, chunk_rows, incoming, crossing,
        written(l.grad_x), written(l.grad_delta), wide(l.grad_delta), wide(l.grad_edge), grad_weights, last_crossing,
        up.crossed};
    const acc* const given = static_cast<const acc*>(l.grad_root_state);
#pragma unroll
    for (int n = 0; n < Kind::kStates; ++n) {
      down.gradient[n] = given != nullptr && n < l.states ? given[rows.own * l.states + n] : acc(0);
    }
    walk<false, Shared::kDepth>(steps, length, l.length, held, ring, down);
    if (!rows.live) return;
    static_cast<acc*>(l.grad_bias)[rows.own] = down.grad_bias;
    acc* const grad_A = static_cast<acc*>(l.grad_A) + rows.own * l.states;
#pragma unroll
    for (int n = 0; n < Kind::kStates; ++n) {
      if (n < l.states) grad_A[n] = down.grad_rate[n] * kUnit<scalar_t>;
    }
  }
}

template <typename scalar_t>
void launch_subtree_types(const SubtreeScanLaunch& l) {
  const auto launch = [&](auto kind) {
    using Kind = decltype(kind);
    launch_teams("selective_subtree_scan", subtree_scan_kernel<Kind>, l.batch * l.slices, 1, kWarp,
        SubtreeShared<Kind>::bytes(l.length), l);
  };
  const auto pick = [&](auto states, auto backward) {
    constexpr int kStates = decltype(states)::value;
    constexpr bool kBackward = decltype(backward)::value;
    l.aligned ? launch(SubtreeKind<scalar_t, kStates, true, kBackward>())
              : launch(SubtreeKind<scalar_t, kStates, false, kBackward>());
  };
  const auto pick_states = [&](auto backward) {
    held_states(l.states) == kFewStates ? pick(std::integral_constant<int, kFewStates>(), backward)
                                        : pick(std::integral_constant<int, kMostStates>(), backward);
  };
  l.backward ? pick_states(std::true_type()) : pick_states(std::false_type());
}

}  // namespace ssm
