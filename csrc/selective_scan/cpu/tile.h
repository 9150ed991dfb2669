// What both passes of the selective scan on the CPU share: a task's channels, and tiles of its tokens. Versions are
// those of dev/log, selective-scan-cpu.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

#include "common/cpu/vector_math.h"
#include "common/dispatch.h"
#include "selective_scan/params.h"

namespace ssm::selective {

// Channels of a task. Rejected: 16 (version 3c), which takes 16 % more instructions.
constexpr int kWidth = 32;
// Tokens of a tile. What does not depend on the state is computed for all of them before the state walks through them,
// so that the processor waits neither for the long chains of an exponential nor for the state. Rejected: 8 and 32
// (version 3c), which were no faster.
constexpr int kTile = 16;
// Sums over the tokens are made of partial sums of so many, which keeps float32 as exact as PyTorch's pairwise sums.
constexpr int kPartial = 64;
static_assert(kPartial % kTile == 0);

template <typename acc>
constexpr int kVectors = kWidth / kLanesOf<acc>;

struct Task {
  int64_t batch, group, channel;
  int width;
};

inline Task task_at(const SelectiveScanParams& p, int64_t index) {
  const int64_t blocks = (p.channels + kWidth - 1) / kWidth;
  const int64_t channel = index % blocks * kWidth;
  const int width = static_cast<int>(std::min<int64_t>(kWidth, p.channels - channel));
  return {index / blocks / p.groups, index / blocks % p.groups, channel, width};
}

// Memory that is not initialised and begins at a cache line.
template <typename acc>
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(static_cast<acc*>(::operator new(size * sizeof(acc), kAlignment))) {}
  acc* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(acc* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<acc[], Delete> data_;
};

// The parameters of one direction for one block of channels.
template <typename acc>
struct Direction {
  explicit Direction(const SelectiveScanParams& p) : A(p.states * kWidth) {}
  alignas(64) acc D[kWidth];
  alignas(64) acc bias[kWidth];
  Buffer<acc> A;  // [N, kWidth]

  SSM_INLINE void read(const SelectiveScanParams& p, int64_t k, const Task& task) {
    const int64_t row = k * p.channels + task.channel;
    for (int c = 0; c < kWidth; ++c) {
      const bool inside = c < task.width;
      D[c] = inside && p.D ? static_cast<const acc*>(p.D)[row + c] : acc(0);
      bias[c] = inside && p.delta_bias ? static_cast<const acc*>(p.delta_bias)[row + c] : acc(0);
      for (int64_t n = 0; n < p.states; ++n) {
        A.data()[n * kWidth + c] = inside ? static_cast<const acc*>(p.A)[(row + c) * p.states + n] : acc(0);
      }
    }
  }
};

// Rows of kWidth channels, a token each.
template <typename acc>
struct Rows {
  acc* data;
  int64_t stride;
  SSM_INLINE acc* operator[](int64_t token) const { return data + token * stride; }
};

// The rows of a block: in `output` if they can be summed there, and otherwise in `scratch`.
template <typename scalar_t>
SSM_INLINE Rows<acc_t<scalar_t>> working_rows(
    const SelectiveScanParams& p, const Task& task, scalar_t* output, acc_t<scalar_t>* scratch) {
  if constexpr (std::is_same_v<scalar_t, acc_t<scalar_t>>) {
    if (task.width == kWidth) return {output, p.channels};
  }
  return {scratch, kWidth};
}

template <typename scalar_t>
SSM_INLINE void finish_rows(
    const SelectiveScanParams& p, const Task& task, scalar_t* output, const Rows<acc_t<scalar_t>>& rows) {
  if (static_cast<const void*>(rows.data) == output) return;
  for (int64_t token = 0; token < p.length; ++token) {
    acc_t<scalar_t> row[kWidth];
    load_row(row, rows[token], kWidth);
    store_row(output + token * p.channels, row, task.width);
  }
}

template <typename scalar_t>
SSM_INLINE const scalar_t* row_of(const void* base, const Strides& s, int64_t batch, int64_t group, int64_t token) {
  return static_cast<const scalar_t*>(base) + batch * s.batch + group * s.group + token * s.token;
}

template <typename acc>
using TileRows = acc[kTile][kWidth];

// The rows of a tile's tokens in one tensor: in the tensor itself, or converted to the accumulate type.
template <typename acc>
struct TileInput {
  const acc* row[kTile];
  alignas(64) TileRows<acc> converted;

  SSM_INLINE const acc* operator[](int i) const { return row[i]; }

  template <typename scalar_t>
  SSM_INLINE void read(const scalar_t* first, int64_t stride, const int64_t* token, int count, int width) {
    for (int i = 0; i < count; ++i) {
      const scalar_t* const source = first + token[i] * stride;
      if constexpr (std::is_same_v<scalar_t, acc>) {
        row[i] = source;
        if (width == kWidth) continue;
      }
      load_row(converted[i], source, width);
      row[i] = converted[i];
    }
  }
};

template <typename T>
SSM_INLINE void fetch_row(const T* row) {
  for (int c = 0; c < kWidth; c += 64 / sizeof(T)) __builtin_prefetch(row + c);
}

SSM_INLINE int64_t token_at(const SelectiveScanParams& p, int64_t batch, int64_t k, int64_t step) {
  const int64_t t = p.reverse[k] ? p.length - 1 - step : step;
  if (p.order == nullptr) return t;
  return p.order[batch * p.order_stride.batch + k * p.order_stride.group + t * p.order_stride.token];
}

// Prefetches the rows of the tile that begins with this step, if there is one. The processor cannot guess rows along an
// order.
template <typename Function>
SSM_INLINE void fetch_tokens(
    const SelectiveScanParams& p, int64_t batch, int64_t k, int64_t first, const Function& fetch) {
  if (first < 0) return;
  for (int64_t step = first; step < std::min(first + kTile, p.length); ++step) fetch(token_at(p, batch, k, step));
}

// Up to kTile successive tokens of one direction, and what is computed for all of them.
template <typename acc>
struct Tile {
  int count;
  int64_t token[kTile];
  TileInput<acc> u, delta;
  alignas(64) TileRows<acc> dt;     // Δ
  alignas(64) TileRows<acc> decay;  // exp(Δ·A) of one state

  SSM_INLINE void find_tokens(const SelectiveScanParams& p, int64_t batch, int64_t k, int64_t first) {
    count = static_cast<int>(std::min<int64_t>(kTile, p.length - first));
    for (int i = 0; i < count; ++i) token[i] = token_at(p, batch, k, first + i);
  }

  // Writes Δ = softplus(delta + bias) to `steps` and, if with_slope, its derivative to `slope`; both [count, kWidth].
  template <bool with_slope>
  SSM_INLINE void time_steps(const acc* bias, bool with_softplus, acc* steps, acc* slope) {
    const int tokens = count;
    if (!with_softplus) {
      for (int i = 0; i < tokens; ++i) {
        for (int c = 0; c < kWidth; c += kLanesOf<acc>) {
          store(steps + i * kWidth + c, load(delta[i] + c) + load(bias + c));
        }
      }
      return;
    }
    for (int i = 0; i < tokens; ++i) {
      for (int c = 0; c < kWidth; c += kLanesOf<acc>) {
        const Vec<acc> x = load(delta[i] + c) + load(bias + c);
        store(steps + i * kWidth + c, x);
        store(decay[i] + c, decaying_part(x));
      }
    }
    const acc* const e = decay[0];
    for (int c = 0; c < tokens * kWidth; c += kLanesOf<acc>) {
      const Vec<acc> x = load(steps + c), part = load(e + c);
      if constexpr (with_slope) store(slope + c, sigmoid<acc>(x, part));
      store(steps + c, softplus(x, part));
    }
  }

  SSM_INLINE void decays(const acc* steps, const acc* A) {
    const int tokens = count;
    for (int i = 0; i < tokens; ++i) {
      for (int c = 0; c < kWidth; c += kLanesOf<acc>) {
        store(decay[i] + c, exponential(load(steps + i * kWidth + c) * load(A + c)));
      }
    }
  }
};

}  // namespace ssm::selective
