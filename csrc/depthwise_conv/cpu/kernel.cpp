// The depthwise convolution with SiLU, forward and backward, on the CPU.

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <vector>

#include "common/cpu/vector_math.h"
#include "depthwise_conv/inputs.h"

namespace ssm {
namespace {

// Rows of the maps are cut into pieces. Their number depends on the shape and not on the threads, so that sums over the
// tokens always have the same order.
constexpr int64_t kMostPieces = 64, kRowsOfPiece = 8;

// A row of a map in acc, with a token of zeros at each side and channels of zeros up to a whole vector.
template <typename acc>
using Row = std::vector<acc>;

// The sizes of the rows that a piece works with.
template <typename acc>
struct RowSizes {
  int64_t width, channels, padded;  // padded: channels up to a whole vector

  explicit RowSizes(const DepthwiseConvParams& p)
      : width(p.width),
        channels(p.channels),
        padded((channels + kLanesOf<acc> - 1) / kLanesOf<acc> * kLanesOf<acc>) {}
  Row<acc> row() const { return Row<acc>((width + 2) * padded); }
};

// The parameters, channels last and padded: [kConvTaps][padded] and [padded].
template <typename acc>
struct Parameters {
  Row<acc> weight, bias;

  Parameters(const DepthwiseConvParams& p, const RowSizes<acc>& sizes)
      : weight(kConvTaps * sizes.padded),
        bias(sizes.padded) {
    for (int64_t c = 0; c < sizes.channels; ++c) {
      for (int k = 0; k < kConvTaps; ++k) {
        weight[k * sizes.padded + c] = static_cast<const acc*>(p.weight)[c * kConvTaps + k];
      }
      if (p.bias != nullptr) bias[c] = static_cast<const acc*>(p.bias)[c];
    }
  }
};

// Reads row `number` of all maps' rows. Without `exists` the row is zeros.
template <typename scalar_t, typename acc>
SSM_MULTIVERSION void read_row(
    const RowSizes<acc>& sizes, const void* map, int64_t number, bool exists, Row<acc>& out) {
  if (!exists) {
    std::fill(out.begin(), out.end(), acc(0));
    return;
  }
  const scalar_t* in = static_cast<const scalar_t*>(map) + number * sizes.width * sizes.channels;
  for (int64_t w = 0; w < sizes.width; ++w) {
    acc* __restrict__ to = out.data() + (w + 1) * sizes.padded;
    for (int64_t c = 0; c < sizes.channels; ++c) to[c] = static_cast<acc>(in[w * sizes.channels + c]);
  }
}

template <typename scalar_t, typename acc>
SSM_MULTIVERSION void write_row(const RowSizes<acc>& sizes, const Row<acc>& in, int64_t number, void* map) {
  scalar_t* out = static_cast<scalar_t*>(map) + number * sizes.width * sizes.channels;
  for (int64_t w = 0; w < sizes.width; ++w) {
    const acc* __restrict__ from = in.data() + (w + 1) * sizes.padded;
    for (int64_t c = 0; c < sizes.channels; ++c) out[w * sizes.channels + c] = static_cast<scalar_t>(from[c]);
  }
}

// 1 / (1 + exp(-x)). The exponential of floats saturates, so that the result would not become 0.
SSM_INLINE FloatVec sigmoid_of(FloatVec x) {
  const FloatVec s = 1.0f / (exponential(-x) + 1.0f);
  return (FloatVec)((IntVec)s & (IntVec)(x > -87.0f));
}
SSM_INLINE DoubleVec sigmoid_of(DoubleVec x) {
  return 1.0 / (exponential(-x) + 1.0);
}

// The channels of one vector, of three neighbouring tokens of three rows.
template <typename acc>
struct Window {
  Vec<acc> value[kConvSide][kConvSide];

  // Moves on by one token, whose channels are at `next` of each row.
  SSM_INLINE void move(const acc* const (&rows)[kConvSide], int64_t next) {
    for (int i = 0; i < kConvSide; ++i) {
      value[i][0] = value[i][1];
      value[i][1] = value[i][2];
      value[i][2] = load(rows[i] + next);
    }
  }
};

template <typename acc>
SSM_INLINE void load_weights(const Parameters<acc>& parameters, int64_t padded, int64_t c, Vec<acc> (&out)[kConvTaps]) {
  for (int k = 0; k < kConvTaps; ++k) out[k] = load(parameters.weight.data() + k * padded + c);
}

// The convolution before SiLU at the middle of the window.
template <typename acc>
SSM_INLINE Vec<acc> convolved(const Window<acc>& x, const Vec<acc> (&weight)[kConvTaps], Vec<acc> sum) {
  for (int k = 0; k < kConvTaps; ++k) sum += weight[k] * x.value[k / kConvSide][k % kConvSide];
  return sum;
}

template <typename acc>
SSM_MULTIVERSION void forward_row(
    const RowSizes<acc>& sizes, const Parameters<acc>& parameters, const acc* const (&rows)[kConvSide], Row<acc>& y) {
  for (int64_t c = 0; c < sizes.padded; c += kLanesOf<acc>) {
    Vec<acc> weight[kConvTaps];
    load_weights(parameters, sizes.padded, c, weight);
    const Vec<acc> bias = load(parameters.bias.data() + c);
    Window<acc> x{};
    x.move(rows, c);
    x.move(rows, sizes.padded + c);
    for (int64_t w = 1; w <= sizes.width; ++w) {
      x.move(rows, (w + 1) * sizes.padded + c);
      const Vec<acc> p = convolved(x, weight, bias);
      store(y.data() + w * sizes.padded + c, p * sigmoid_of(p));
    }
  }
}

// g = ∂y · SiLU'(p) for a row, in the place of ∂y. Adds what the row gives to the sums [kConvTaps + 1][padded] of the
// weights and the bias, if it is one of the piece's own.
template <typename acc>
SSM_MULTIVERSION void gradient_row(const RowSizes<acc>& sizes, const Parameters<acc>& parameters,
    const acc* const (&rows)[kConvSide], Row<acc>& g, acc* sums) {
  for (int64_t c = 0; c < sizes.padded; c += kLanesOf<acc>) {
    Vec<acc> weight[kConvTaps], sum[kConvTaps + 1] = {};
    load_weights(parameters, sizes.padded, c, weight);
    const Vec<acc> bias = load(parameters.bias.data() + c);
    Window<acc> x{};
    x.move(rows, c);
    x.move(rows, sizes.padded + c);
    for (int64_t w = 1; w <= sizes.width; ++w) {
      x.move(rows, (w + 1) * sizes.padded + c);
      const Vec<acc> p = convolved(x, weight, bias), s = sigmoid_of(p);
      acc* const at = g.data() + w * sizes.padded + c;
      const Vec<acc> gradient = load(at) * (s * (acc(1) + p * (acc(1) - s)));
      store(at, gradient);
      for (int k = 0; k < kConvTaps; ++k) sum[k] += gradient * x.value[k / kConvSide][k % kConvSide];
      sum[kConvTaps] += gradient;
    }
    if (sums == nullptr) continue;
    for (int k = 0; k <= kConvTaps; ++k) {
      acc* const at = sums + k * sizes.padded + c;
      store(at, load(at) + sum[k]);
    }
  }
}

// ∂x of a row, from three rows of g.
template <typename acc>
SSM_MULTIVERSION void input_gradient_row(const RowSizes<acc>& sizes, const Parameters<acc>& parameters,
    const acc* const (&rows)[kConvSide], Row<acc>& grad_x) {
  for (int64_t c = 0; c < sizes.padded; c += kLanesOf<acc>) {
    Vec<acc> weight[kConvTaps], mirrored[kConvTaps];
    load_weights(parameters, sizes.padded, c, weight);
    for (int k = 0; k < kConvTaps; ++k) mirrored[k] = weight[kConvTaps - 1 - k];
    Window<acc> g{};
    g.move(rows, c);
    g.move(rows, sizes.padded + c);
    for (int64_t w = 1; w <= sizes.width; ++w) {
      g.move(rows, (w + 1) * sizes.padded + c);
      store(grad_x.data() + w * sizes.padded + c, convolved(g, mirrored, Vec<acc>{}));
    }
  }
}

// The last three rows that were read, by their number modulo three.
template <typename acc>
struct RowRing {
  std::array<Row<acc>, kConvSide> rows;

  explicit RowRing(const RowSizes<acc>& sizes) : rows{sizes.row(), sizes.row(), sizes.row()} {}
  Row<acc>& operator[](int64_t row) { return rows[(row + kConvSide) % kConvSide]; }

  // The rows above, at and below one.
  struct Around {
    const acc* row[kConvSide];
  };
  Around around(int64_t row) { return {{(*this)[row - 1].data(), (*this)[row].data(), (*this)[row + 1].data()}}; }
};

// Calls run(map, begin, end) for the rows of each map that lie in a piece.
template <typename Run>
void for_maps(const DepthwiseConvParams& p, int64_t begin, int64_t end, const Run& run) {
  while (begin < end) {
    const int64_t map = begin / p.height, first = map * p.height, stop = std::min(end, first + p.height);
    run(first, begin - first, stop - first);
    begin = stop;
  }
}

template <typename scalar_t>
void forward_piece(const DepthwiseConvParams& p, int64_t begin, int64_t end) {
  using acc = acc_t<scalar_t>;
  const RowSizes<acc> sizes(p);
  const Parameters<acc> parameters(p, sizes);
  RowRing<acc> x(sizes);
  Row<acc> y = sizes.row();
  for_maps(p, begin, end, [&](int64_t first, int64_t from, int64_t to) {
    const auto read = [&](int64_t row) {
      read_row<scalar_t>(sizes, p.x, first + row, row >= 0 && row < p.height, x[row]);
    };
    read(from - 1);
    read(from);
    for (int64_t row = from; row < to; ++row) {
      read(row + 1);
      forward_row(sizes, parameters, x.around(row).row, y);
      write_row<scalar_t>(sizes, y, first + row, p.y);
    }
  });
}

template <typename scalar_t>
void backward_piece(const DepthwiseConvParams& p, int64_t begin, int64_t end, acc_t<scalar_t>* sums) {
  using acc = acc_t<scalar_t>;
  const RowSizes<acc> sizes(p);
  const Parameters<acc> parameters(p, sizes);
  RowRing<acc> x(sizes), g(sizes);
  Row<acc> grad_x = sizes.row();
  for_maps(p, begin, end, [&](int64_t first, int64_t from, int64_t to) {
    const auto read = [&](int64_t row) {
      read_row<scalar_t>(sizes, p.x, first + row, row >= 0 && row < p.height, x[row]);
    };
    // Rows of g next to the piece are another piece's, but ∂x needs them.
    const auto read_gradient = [&](int64_t row) {
      const bool exists = row >= 0 && row < p.height, own = row >= from && row < to;
      read(row + 1);
      read_row<scalar_t>(sizes, p.grad_y, first + row, exists, g[row]);
      if (exists) gradient_row(sizes, parameters, x.around(row).row, g[row], own ? sums : nullptr);
    };
    read(from - 2);
    read(from - 1);
    read_gradient(from - 1);
    read_gradient(from);
    for (int64_t row = from; row < to; ++row) {
      read_gradient(row + 1);
      input_gradient_row(sizes, parameters, g.around(row).row, grad_x);
      write_row<scalar_t>(sizes, grad_x, first + row, p.grad_x);
    }
  });
}

// Calls run(piece, begin, end) for all pieces.
template <typename Run>
void for_pieces(int64_t rows, int64_t pieces, const Run& run) {
  torch::stable::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) run(piece, rows * piece / pieces, rows * (piece + 1) / pieces);
  });
}

int64_t pieces_of(int64_t rows) {
  return std::clamp<int64_t>(rows / kRowsOfPiece, 1, kMostPieces);
}

Tensor depthwise_conv(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  const DepthwiseConvForward pass(kCPU, x, weight, bias);
  const DepthwiseConvParams& p = pass.params;
  if (x.numel() == 0) return pass.y;
  const int64_t rows = p.batch * p.height;
  SSM_DISPATCH(x.scalar_type(), "depthwise_conv", [&] {
    for_pieces(
        rows, pieces_of(rows), [&](int64_t, int64_t begin, int64_t end) { forward_piece<scalar_t>(p, begin, end); });
  });
  return pass.y;
}

std::tuple<Tensor, Tensor, Tensor> depthwise_conv_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  const DepthwiseConvBackward pass(kCPU, grad_y, x, weight, bias);
  const DepthwiseConvParams& p = pass.params;
  if (x.numel() == 0) return {pass.grad_x, zeros(weight.sizes(), weight), zeros({x.size(3)}, weight)};
  const int64_t rows = p.batch * p.height, pieces = pieces_of(rows);
  SSM_DISPATCH(x.scalar_type(), "depthwise_conv_backward", [&] {
    using acc = acc_t<scalar_t>;
    const int64_t padded = RowSizes<acc>(p).padded, size = (kConvTaps + 1) * padded;
    std::vector<acc> sums(pieces * size);
    for_pieces(rows, pieces, [&](int64_t piece, int64_t begin, int64_t end) {
      backward_piece<scalar_t>(p, begin, end, sums.data() + piece * size);
    });
    for (int64_t piece = 1; piece < pieces; ++piece) {
      for (int64_t i = 0; i < size; ++i) sums[i] += sums[piece * size + i];
    }
    for (int64_t c = 0; c < p.channels; ++c) {
      for (int k = 0; k < kConvTaps; ++k) {
        static_cast<acc*>(p.grad_weight)[c * kConvTaps + k] = sums[k * padded + c];
      }
      static_cast<acc*>(p.grad_bias)[c] = sums[kConvTaps * padded + c];
    }
  });
  return {pass.grad_x, pass.grad_weight, pass.grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssm_core, CPU, m) {
  m.impl("depthwise_conv", TORCH_BOX(&depthwise_conv));
  m.impl("depthwise_conv_backward", TORCH_BOX(&depthwise_conv_backward));
}

}  // namespace ssm
