// The depthwise convolution with SiLU, forward and backward, on the CPU.

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <type_traits>
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

// The parameters, channels last and padded: [kConvTaps][padded], the same the other way around, and [padded].
template <typename acc>
struct Parameters {
  Row<acc> weight, mirrored, bias;

  Parameters(const DepthwiseConvParams& p, const RowSizes<acc>& sizes)
      : weight(kConvTaps * sizes.padded),
        mirrored(weight.size()),
        bias(sizes.padded) {
    for (int64_t c = 0; c < sizes.channels; ++c) {
      for (int k = 0; k < kConvTaps; ++k) {
        const acc tap = static_cast<const acc*>(p.weight)[c * kConvTaps + k];
        weight[k * sizes.padded + c] = mirrored[(kConvTaps - 1 - k) * sizes.padded + c] = tap;
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

// Neighbouring tokens that are computed together, so that a weight is loaded once for all of them.
constexpr int kTokens = 4;

// Three rows, from the token before the first that is computed on.
template <typename acc>
struct Rows {
  const acc* row[kConvSide];

  SSM_INLINE Rows from(int64_t offset) const { return {row[0] + offset, row[1] + offset, row[2] + offset}; }
};

// Calls run(tokens, offset) for all tokens of a row, for some at once and then one by one.
template <typename acc, typename Run>
SSM_INLINE void for_tokens(const RowSizes<acc>& sizes, const Run& run) {
  int64_t w = 0;
  for (; w + kTokens <= sizes.width; w += kTokens) run(std::integral_constant<int, kTokens>{}, w * sizes.padded);
  for (; w < sizes.width; ++w) run(std::integral_constant<int, 1>{}, w * sizes.padded);
}

// The convolution before SiLU of neighbouring tokens, for one vector of channels. `out` holds where the sums start.
template <typename acc, int kCount>
SSM_INLINE void convolve(const Rows<acc>& x, const acc* weight, int64_t padded, Vec<acc> (&out)[kCount]) {
  for (int i = 0; i < kConvSide; ++i) {
    Vec<acc> taps[kConvSide];
    for (int j = 0; j < kConvSide; ++j) taps[j] = load(weight + (i * kConvSide + j) * padded);
    for (int t = 0; t < kCount + kConvSide - 1; ++t) {
      const Vec<acc> token = load(x.row[i] + t * padded);
      for (int j = 0; j < kConvSide; ++j) {
        if (t - j >= 0 && t - j < kCount) out[t - j] += taps[j] * token;
      }
    }
  }
}

template <typename acc>
SSM_MULTIVERSION void forward_row(
    const RowSizes<acc>& sizes, const Parameters<acc>& parameters, const Rows<acc>& x, Row<acc>& y) {
  const int64_t padded = sizes.padded;
  for_tokens(sizes, [&](auto count, int64_t offset) __attribute__((always_inline)) {
    acc* const to = y.data() + offset + padded;
    for (int64_t c = 0; c < padded; c += kLanesOf<acc>) {
      Vec<acc> p[count.value];
      for (auto& sum : p) sum = load(parameters.bias.data() + c);
      convolve(x.from(offset + c), parameters.weight.data() + c, padded, p);
      for (int t = 0; t < count.value; ++t) store(to + t * padded + c, p[t] * sigmoid_of(p[t]));
    }
  });
}

// Adds g times x to the sums of the weights, and g to that of the bias, for one vector of channels.
template <typename acc, int kCount>
SSM_INLINE void add_to_sums(const Rows<acc>& x, const Vec<acc> (&g)[kCount], int64_t padded, acc* sums) {
  for (int i = 0; i < kConvSide; ++i) {
    Vec<acc> sum[kConvSide];
    for (int j = 0; j < kConvSide; ++j) sum[j] = load(sums + (i * kConvSide + j) * padded);
    for (int t = 0; t < kCount + kConvSide - 1; ++t) {
      const Vec<acc> token = load(x.row[i] + t * padded);
      for (int j = 0; j < kConvSide; ++j) {
        if (t - j >= 0 && t - j < kCount) sum[j] += g[t - j] * token;
      }
    }
    for (int j = 0; j < kConvSide; ++j) store(sums + (i * kConvSide + j) * padded, sum[j]);
  }
  Vec<acc> of_bias = load(sums + kConvTaps * padded);
  for (const auto& gradient : g) of_bias += gradient;
  store(sums + kConvTaps * padded, of_bias);
}

// g = ∂y · SiLU'(p) for a row, in the place of ∂y. Adds what the row gives to the sums [kConvTaps + 1][padded] of the
// weights and the bias, if there are any.
template <typename acc>
SSM_MULTIVERSION void gradient_row(
    const RowSizes<acc>& sizes, const Parameters<acc>& parameters, const Rows<acc>& x, Row<acc>& g, acc* sums) {
  const int64_t padded = sizes.padded;
  for_tokens(sizes, [&](auto count, int64_t offset) __attribute__((always_inline)) {
    acc* const at = g.data() + offset + padded;
    for (int64_t c = 0; c < padded; c += kLanesOf<acc>) {
      Vec<acc> p[count.value], gradient[count.value];
      for (auto& sum : p) sum = load(parameters.bias.data() + c);
      convolve(x.from(offset + c), parameters.weight.data() + c, padded, p);
      for (int t = 0; t < count.value; ++t) {
        const Vec<acc> s = sigmoid_of(p[t]);
        gradient[t] = load(at + t * padded + c) * (s * (acc(1) + p[t] * (acc(1) - s)));
        store(at + t * padded + c, gradient[t]);
      }
      if (sums != nullptr) add_to_sums(x.from(offset + c), gradient, padded, sums + c);
    }
  });
}

// ∂x of a row, from three rows of g.
template <typename acc>
SSM_MULTIVERSION void input_gradient_row(
    const RowSizes<acc>& sizes, const Parameters<acc>& parameters, const Rows<acc>& g, Row<acc>& grad_x) {
  const int64_t padded = sizes.padded;
  for_tokens(sizes, [&](auto count, int64_t offset) __attribute__((always_inline)) {
    acc* const to = grad_x.data() + offset + padded;
    for (int64_t c = 0; c < padded; c += kLanesOf<acc>) {
      Vec<acc> sum[count.value] = {};
      convolve(g.from(offset + c), parameters.mirrored.data() + c, padded, sum);
      for (int t = 0; t < count.value; ++t) store(to + t * padded + c, sum[t]);
    }
  });
}

// The last three rows that were read, by their number modulo three.
template <typename acc>
struct RowRing {
  std::array<Row<acc>, kConvSide> rows;

  explicit RowRing(const RowSizes<acc>& sizes) : rows{sizes.row(), sizes.row(), sizes.row()} {}
  Row<acc>& operator[](int64_t row) { return rows[(row + kConvSide) % kConvSide]; }

  // The rows above, at and below one.
  Rows<acc> around(int64_t row) { return {(*this)[row - 1].data(), (*this)[row].data(), (*this)[row + 1].data()}; }
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
      forward_row(sizes, parameters, x.around(row), y);
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
      if (exists) gradient_row(sizes, parameters, x.around(row), g[row], own ? sums : nullptr);
    };
    read(from - 2);
    read(from - 1);
    read_gradient(from - 1);
    read_gradient(from);
    for (int64_t row = from; row < to; ++row) {
      read_gradient(row + 1);
      input_gradient_row(sizes, parameters, g.around(row), grad_x);
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
