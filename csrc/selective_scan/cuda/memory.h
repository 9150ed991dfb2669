// The shared memory of one block of the selective scan. Kernels find their parts in it and the host asks for its size,
// both by the same structs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/memory.h"
#include "common/scalar.h"
#include "selective_scan/cuda/launch.h"
#include "selective_scan/cuda/tuning.h"

namespace ssm {

// What some positions do to the state: h ← decay · h + state.
template <typename acc>
struct alignas(2 * sizeof(acc)) Pair {
  acc decay, state;
};

// B and C of one position. B is over the unit of Δ (common/cuda/math.cuh).
template <typename acc>
struct alignas(2 * sizeof(acc)) Weights {
  acc B, C;
};

// A, D and the bias of Δ of a tile's channels, for one direction.
template <typename scalar_t>
struct Parameters {
  acc_t<scalar_t> A[kColumns<scalar_t>], D[kColumns<scalar_t>], bias[kColumns<scalar_t>];
};

// Where the rows of a block, and the blocks of a cluster, leave what they do to the state (exchange.cuh). There are two
// sides: two directions that share an exchange, or the state, which follows the walk, and its gradient, which goes
// against it. Rows and blocks are kept in the order of each side's walk. The blocks' pairs have two sets, since another
// block may be one exchange ahead.
template <typename scalar_t, int kSides>
struct Exchange {
  using acc = acc_t<scalar_t>;
  uint64_t arrived[2][kSides];  // mbarriers, which count the bytes of the blocks' pairs
  Pair<acc> rows[kSides][kMaxRows][kColumns<scalar_t>];
  Pair<acc> block[2][kSides][kMaxCluster][kColumns<scalar_t>];
};

C10_HOST_DEVICE inline BlockShape shape_of(const ScanLaunch& a) {
  return {a.rows, a.count, a.one_order};
}

// kJoint: directions that share an exchange. A step is a tile and kJoint directions.
template <int kJoint, typename scalar_t>
struct ForwardMemory {
  using acc = acc_t<scalar_t>;
  Exchange<scalar_t, kJoint>* exchange;
  Parameters<scalar_t>* parameters;  // [2][kJoint]: of this step and of the next
  scalar_t* delta;                   // tiles [2][kJoint]: of this step and of the next
  scalar_t* u;                       // tiles [2]: this one and the next
  acc* y;                            // a tile: the sum so far, where each direction has its own order
  Weights<acc>* weights;             // [directions][positions]
  int* tokens;                       // [orders][positions]
  size_t bytes;

  C10_HOST_DEVICE ForwardMemory(const BlockShape& shape, char* memory) {
    Carver carver(memory);
    const int positions = shape.rows * kTokens;
    exchange = carver.take<Exchange<scalar_t, kJoint>>(1);
    parameters = carver.take<Parameters<scalar_t>>(2 * kJoint);
    delta = carver.take<scalar_t>(2 * kJoint * tile_size<scalar_t>(positions));
    u = carver.take<scalar_t>(2 * tile_size<scalar_t>(positions));
    y = carver.take<acc>(shape.one_order ? 0 : tile_size<scalar_t>(positions));
    weights = carver.take<Weights<acc>>(shape.count * positions);
    tokens = carver.take<int>((shape.one_order ? 1 : shape.count) * positions);
    bytes = carver.bytes();
  }
};

// Gradients of the parameters that a block sums over its rows.
enum ParameterGradient { kGradA, kGradD, kGradBias, kParameterGradients };

// Positions of which a lane gets the sums of B's or C's gradients (RowSum in backward.cuh).
constexpr int kSumsOfLane = 2;

template <typename scalar_t>
struct BackwardMemory {
  using acc = acc_t<scalar_t>;
  using Row = acc[kColumns<scalar_t>];
  Exchange<scalar_t, 2>* exchange;
  Parameters<scalar_t>* parameters;  // [2]: of this step and of the next
  scalar_t* delta;                   // a tile
  scalar_t *u, *grad_y;              // tiles [2]: this one and the next
  acc* grad_u;                       // a tile: the sum over directions so far
  Row* sums;                         // [kParameterGradients][kMaxRows]
  acc* weight_sums;                  // [directions][kSumsOfLane][threads]: over the tiles so far
  Weights<acc>* weights;             // [directions][positions]
  int* tokens;                       // [orders][positions]
  size_t bytes;

  C10_HOST_DEVICE BackwardMemory(const BlockShape& shape, char* memory) {
    Carver carver(memory);
    const int positions = shape.rows * kTokens;
    exchange = carver.take<Exchange<scalar_t, 2>>(1);
    parameters = carver.take<Parameters<scalar_t>>(2);
    delta = carver.take<scalar_t>(tile_size<scalar_t>(positions));
    u = carver.take<scalar_t>(2 * tile_size<scalar_t>(positions));
    grad_y = carver.take<scalar_t>(2 * tile_size<scalar_t>(positions));
    grad_u = carver.take<acc>(tile_size<scalar_t>(positions));
    sums = carver.take<Row>(kParameterGradients * kMaxRows);
    weight_sums = carver.take<acc>(shape.count * kSumsOfLane * kLanes * shape.rows);
    weights = carver.take<Weights<acc>>(shape.count * positions);
    tokens = carver.take<int>((shape.one_order ? 1 : shape.count) * positions);
    bytes = carver.bytes();
  }
};

// Whether pairs of directions share an exchange, so that the blocks of a cluster wait for each other half as often.
inline bool shares_exchange(const BlockShape& shape) {
  return shape.one_order && shape.count % 2 == 0;
}

// Bytes of shared memory that a block of either kernel takes.
template <typename scalar_t>
size_t forward_bytes(const BlockShape& shape) {
  return shares_exchange(shape) ? ForwardMemory<2, scalar_t>(shape, nullptr).bytes
                                : ForwardMemory<1, scalar_t>(shape, nullptr).bytes;
}
template <typename scalar_t>
size_t backward_bytes(const BlockShape& shape) {
  return BackwardMemory<scalar_t>(shape, nullptr).bytes;
}

}  // namespace ssm
