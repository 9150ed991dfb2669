// An image scaled with the numbers of Pillow (https://pillow.readthedocs.io): a weighted mean of the pixels
// under a window, first along rows and then along columns. Weights have 22 bits behind the point, sums are whole
// numbers, and what lies between the two passes has eight bits. Sums of whole numbers do not depend on their order, so
// that every vector width gives the same bytes. One thread computes an image: loading processes work side by side.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/dispatch.h"

namespace ssm {
namespace {

constexpr int kBits = 22;                           // of a weight, behind the point
constexpr int kLanes = 4;                           // numbers that are read together; a pixel has three of them or one
constexpr int64_t kMostSide = int64_t{1} << 28;     // of an image, so that places fit into int
constexpr int64_t kMostPixels = int64_t{1} << 26;   // of a result
constexpr int64_t kMostBetween = int64_t{1} << 30;  // pixels between the two passes
typedef int32_t Sums __attribute__((vector_size(4 * kLanes)));
typedef int32_t LooseSums __attribute__((vector_size(4 * kLanes), aligned(4)));

double linear(double x) {
  return std::max(0.0, 1 - std::abs(x));
}

// Keys, "Cubic convolution interpolation for digital image processing" (1981), equation 8, with a = -1/2.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// For every place of one axis of the result: the first pixel of its window, how many there are, and their weights.
struct Windows {
  int most;
  std::vector<int> first, count;
  std::vector<int32_t> weights;

  Windows(int64_t from, int64_t to, bool is_cubic) : first(to), count(to) {
    const double scale = static_cast<double>(from) / static_cast<double>(to);
    const double stretch = std::max(scale, 1.0);  // an image that becomes smaller is blurred
    const double support = (is_cubic ? 2 : 1) * stretch;
    most = std::min(2 * static_cast<int>(std::ceil(support)) + 1, static_cast<int>(from));
    weights.resize(to * most);
    std::vector<double> exact(most);
    for (int64_t i = 0; i < to; ++i) {
      const double centre = (static_cast<double>(i) + 0.5) * scale;
      first[i] = std::max(0, static_cast<int>(centre - support + 0.5));
      count[i] = std::min(static_cast<int>(from), static_cast<int>(centre + support + 0.5)) - first[i];
      double sum = 0;
      for (int k = 0; k < count[i]; ++k) {
        const double distance = (k + first[i] - centre + 0.5) * (1 / stretch);
        exact[k] = is_cubic ? cubic(distance) : linear(distance);
        sum += exact[k];
      }
      for (int k = 0; k < count[i]; ++k) {
        const double weight = exact[k] / sum * (1 << kBits);
        weights[i * most + k] = static_cast<int32_t>(weight < 0 ? weight - 0.5 : weight + 0.5);
      }
    }
  }

  int64_t places() const { return static_cast<int64_t>(first.size()); }
  const int32_t* weights_of(int64_t place) const { return weights.data() + place * most; }
};

// Rounds sums to bytes.
SSM_INLINE void to_bytes(const int32_t* __restrict__ sums, int64_t count, uint8_t* __restrict__ out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(std::clamp(sums[i] >> kBits, 0, 255));
}

// Scales every row. A pixel's channels lie side by side and are summed up together; what the lanes behind them hold is
// overwritten by the next pixel's.
template <int kChannels>
SSM_INLINE void scale_row(
    const int32_t* row, const Windows& windows, int32_t* __restrict__ sums, uint8_t* __restrict__ out) {
  for (int64_t i = 0; i < windows.places(); ++i) {
    const int32_t *weights = windows.weights_of(i), *pixel = row + int64_t{1} * windows.first[i] * kChannels;
    Sums sum = Sums{} + (1 << (kBits - 1));
    for (int k = 0; k < windows.count[i]; ++k, pixel += kChannels) {
      sum += weights[k] * *reinterpret_cast<const LooseSums*>(pixel);
    }
    *reinterpret_cast<LooseSums*>(sums + i * kChannels) = sum;
  }
  to_bytes(sums, windows.places() * kChannels, out);
}

SSM_MULTIVERSION void scale_rows(
    const uint8_t* image, int64_t rows, int64_t row_items, int64_t channels, const Windows& windows, uint8_t* out) {
  const int64_t out_items = windows.places() * channels;
  std::vector<int32_t> wide(row_items + kLanes), sums(out_items + kLanes);
  for (int64_t row = 0; row < rows; ++row, image += row_items, out += out_items) {
    for (int64_t i = 0; i < row_items; ++i) wide[i] = image[i];
    if (channels == 3) {
      scale_row<3>(wide.data(), windows, sums.data(), out);
    } else {
      scale_row<1>(wide.data(), windows, sums.data(), out);
    }
  }
}

SSM_MULTIVERSION void scale_columns(const uint8_t* image, int64_t row_items, const Windows& windows, uint8_t* out) {
  std::vector<int32_t> sums(row_items);
  for (int64_t row = 0; row < windows.places(); ++row, out += row_items) {
    std::fill(sums.begin(), sums.end(), 1 << (kBits - 1));
    for (int k = 0; k < windows.count[row]; ++k) {
      const uint8_t* from = image + (windows.first[row] + k) * row_items;
      const int32_t weight = windows.weights_of(row)[k];
      for (int64_t i = 0; i < row_items; ++i) sums[i] += weight * from[i];
    }
    to_bytes(sums.data(), row_items, out);
  }
}

Tensor resize(const Tensor& image, int64_t out_height, int64_t out_width, bool is_cubic) {
  SSM_CHECK(image.dim() == 3, "image must have shape [H, W, C], got ", image.sizes());
  SSM_CHECK(image.scalar_type() == ScalarType::Byte, "image must be uint8, got ", image.scalar_type());
  check_contiguous(image, "image");
  const int64_t height = image.size(0), width = image.size(1), channels = image.size(2);
  SSM_CHECK(channels == 1 || channels == 3, "image must have 1 or 3 channels, got ", channels);
  SSM_CHECK(std::min(height, width) >= 1 && std::max(height, width) <= kMostSide,
      "image must have sides from 1 to 2^28, got ", image.sizes());
  SSM_CHECK(is_grid(out_height, out_width, kMostPixels), "the result must have from 1 to 2^26 pixels, got ", out_height,
      " × ", out_width);
  SSM_CHECK(is_grid(height, out_width, kMostBetween), "an image ", height, " pixels high is too high for a result ",
      out_width, " wide");
  Tensor result = empty({out_height, out_width, channels}, image);
  auto* out = static_cast<uint8_t*>(result.mutable_data_ptr());
  const auto* from = static_cast<const uint8_t*>(image.const_data_ptr());
  const int64_t items = width * channels, out_items = out_width * channels;
  const auto across = [&](const uint8_t* rows, int64_t count, uint8_t* to) {
    scale_rows(rows, count, items, channels, Windows(width, out_width, is_cubic), to);
  };
  const auto down = [&](const uint8_t* rows, int64_t row_items, uint8_t* to) {
    scale_columns(rows, row_items, Windows(height, out_height, is_cubic), to);
  };
  // As in Pillow, a side that keeps its length is not touched, and of a column more than a hundred times as high as
  // wide the height is reduced first.
  if (width == out_width && height == out_height) {
    std::memcpy(out, from, height * items);
  } else if (width == out_width) {
    down(from, items, out);
  } else if (height == out_height) {
    across(from, height, out);
  } else if (height > out_height && height > 100 * width) {
    std::vector<uint8_t> scaled(out_height * items);
    down(from, items, scaled.data());
    across(scaled.data(), out_height, out);
  } else {
    std::vector<uint8_t> scaled(height * out_items);
    across(from, height, scaled.data());
    down(scaled.data(), out_items, out);
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ssm_train, CPU, m) {
  m.impl("resize", TORCH_BOX(&resize));
}

}  // namespace ssm
