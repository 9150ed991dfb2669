// How the threads of a block go down the rows of maps, and how the rows come to shared memory.
#pragma once

#include <cstdint>

#include "common/cuda/async_copy.cuh"
#include "common/cuda/packs.cuh"
#include "depthwise_conv/cuda/launch.h"

namespace ssm {
namespace {

// A row that a walk has come to, and where a thread is in it.
template <typename scalar_t>
struct ConvRow {
  int column, channel;  // the thread's, counted from the walk's first column and from the map's first channel
  int item;             // a map, or a tile of its columns
  int row;              // -1 is the row of zeros before it
  int token;            // the column in the map
  int64_t at;           // bytes from the beginning of the maps

  // `number` counts the rows of all items, rows of zeros included, and is -2 at least.
  __device__ ConvRow(const DepthwiseConvLaunch& p, int64_t number, int column, int channel)
      : column(column),
        channel(channel) {
    const int64_t rows = int64_t{1} + p.height, later = number + rows;
    item = static_cast<int>(later / rows) - 1;
    row = static_cast<int>(later % rows) - 1;
    locate(p);
  }

  __device__ __forceinline__ void locate(const DepthwiseConvLaunch& p) {
    int map = item;
    token = column;
    if (p.tiles > 1) {
      map = item / p.tiles;
      token += item % p.tiles * p.own_width - 1;
    }
    const int64_t tokens = (static_cast<int64_t>(map) * p.height + row) * p.width + token;
    at = (tokens * p.channels + channel) * static_cast<int64_t>(sizeof(scalar_t));
  }

  __device__ __forceinline__ void advance(const DepthwiseConvLaunch& p) {
    if (++row == p.height) {
      row = -1;
      ++item;
    } else if (row == 0) {
      locate(p);
    } else {
      at += p.row_bytes;
    }
  }

  __device__ __forceinline__ bool exists(const DepthwiseConvLaunch& p) const {
    return row >= 0 && static_cast<unsigned>(item) < static_cast<unsigned>(p.items);
  }
};

// A thread's place in its block.
template <typename scalar_t>
struct ConvPlace {
  int lane, place, walk;  // among the lanes; among the places of its walk; the walk
  int first_channel;      // of the block
  int channel;            // the thread's first one
  int64_t start;          // of the walk: the number of its first row

  __device__ explicit ConvPlace(const DepthwiseConvLaunch& p) {
    const int number = threadIdx.x / kConvLanes;
    lane = threadIdx.x % kConvLanes;
    walk = number / p.places;
    place = number % p.places;
    first_channel = blockIdx.x * kConvChannels<scalar_t>;
    channel = first_channel + lane * kConvVector<scalar_t>;
    start = (static_cast<int64_t>(blockIdx.y) * p.walks + walk) * p.length;
  }

  // Where the thread's channels of the column before its own are, in bytes from the beginning of the walk's shared row.
  __device__ __forceinline__ int in_row() const {
    return place * kConvColumns * kConvTokenBytes<scalar_t> + lane * kConvVector<scalar_t> * int{sizeof(scalar_t)};
  }
};

// Whether the kernel is not to read a map: further gradients may be missing.
__device__ __forceinline__ bool is_missing(int number, const void* map) {
  return number >= kConvBackwardMaps && map == nullptr;
}

// Copies rows to shared memory, 16 bytes at once. The threads of a walk share the work.
template <typename scalar_t, bool kAligned>
struct ConvCopies {
  static constexpr int kWidth = 16 / sizeof(scalar_t);              // channels of a copy
  static constexpr int kCopies = kConvChannels<scalar_t> / kWidth;  // of a token
  static constexpr int kTokenBytes = kConvTokenBytes<scalar_t>;

  int column, channel;  // of the thread's first copy
  int to;               // where it goes, in bytes from the beginning of a shared row

  __device__ explicit ConvCopies(const ConvPlace<scalar_t>& of) {
    const int number = of.place * kConvLanes + of.lane;
    column = number / kCopies;
    channel = of.first_channel + number % kCopies * kWidth;
    to = column * kTokenBytes + number % kCopies * 16;
  }

  // Starts to copy the walk's columns of a row of each map, from the one before its first on, to `shared`. What lies
  // outside of the maps becomes zero.
  template <int kMaps>
  __device__ __forceinline__ void start(const DepthwiseConvLaunch& p, const ConvMemory<scalar_t, kMaps>& memory,
      const ConvRow<scalar_t>& row, bool exists, const void* const (&maps)[kMaps], char* shared) const {
    const int step = p.places * (kConvLanes / kCopies);
    const int64_t token_bytes = static_cast<int64_t>(p.channels) * sizeof(scalar_t);
    exists = exists && channel < p.channels;
    shared += to;
    int64_t at = row.at - token_bytes;
    int token = row.token - 1;
#pragma unroll 1
    for (int c = column; c < memory.columns; c += step) {
      const bool inside = exists && static_cast<unsigned>(token) < static_cast<unsigned>(p.width);
#pragma unroll
      for (int m = 0; m < kMaps; ++m) {
        if (is_missing(m, maps[m])) continue;
        copy_async_or_zero<16>(shared + m * memory.map, static_cast<const char*>(maps[m]) + at, inside);
      }
      shared += step * kTokenBytes;
      at += step * token_bytes;
      token += step;
    }
  }
};

// Copies channels one by one, where rows are not aligned.
template <typename scalar_t>
struct ConvCopies<scalar_t, false> {
  static constexpr int column = 0;
  int number, channel;

  __device__ explicit ConvCopies(const ConvPlace<scalar_t>& of)
      : number(of.place * kConvLanes + of.lane),
        channel(of.first_channel) {}

  template <int kMaps>
  __device__ __forceinline__ void start(const DepthwiseConvLaunch& p, const ConvMemory<scalar_t, kMaps>& memory,
      const ConvRow<scalar_t>& row, bool exists, const void* const (&maps)[kMaps], char* shared) const {
    constexpr int kChannels = kConvChannels<scalar_t>;
#pragma unroll 1
    for (int i = number; i < memory.columns * kChannels; i += p.places * kConvLanes) {
      const int c = i / kChannels, k = i % kChannels, token = row.token + c - 1;
      const bool inside =
          exists && static_cast<unsigned>(token) < static_cast<unsigned>(p.width) && channel + k < p.channels;
      const int64_t at = row.at + (static_cast<int64_t>(c - 1) * p.channels + k) * sizeof(scalar_t);
      char* const target = shared + c * kConvTokenBytes<scalar_t> + k * sizeof(scalar_t);
#pragma unroll
      for (int m = 0; m < kMaps; ++m) {
        if (is_missing(m, maps[m])) continue;
        *reinterpret_cast<scalar_t*>(target + m * memory.map) =
            inside ? *reinterpret_cast<const scalar_t*>(static_cast<const char*>(maps[m]) + at) : scalar_t(0);
      }
    }
  }
};

// Neighbouring channels as they are in memory.
template <typename scalar_t>
using ConvPack = Pack<scalar_t, kConvVector<scalar_t>>;

// Reads one thread's channels of neighbouring columns, which lie from `from` on in a shared row.
template <typename scalar_t, int kCount>
__device__ __forceinline__ void read_columns(const char* from, ConvPack<scalar_t> (&out)[kCount]) {
#pragma unroll
  for (int c = 0; c < kCount; ++c) {
    out[c] = *reinterpret_cast<const ConvPack<scalar_t>*>(from + c * kConvTokenBytes<scalar_t>);
  }
}

// Adds one thread's channels of neighbouring columns, as read_columns has them.
template <typename scalar_t, int kCount, int kVector>
__device__ __forceinline__ void add_columns(const char* from, acc_t<scalar_t> (&sum)[kCount][kVector]) {
  ConvPack<scalar_t> packed[kCount];
  read_columns<scalar_t>(from, packed);
#pragma unroll
  for (int c = 0; c < kCount; ++c) {
    acc_t<scalar_t> part[kVector];
    unpack(packed[c], part);
#pragma unroll
    for (int v = 0; v < kVector; ++v) sum[c][v] += part[v];
  }
}

// The thread's columns that are its own to write, a bit each: not those outside of the map, nor those of other tiles.
template <typename scalar_t>
__device__ unsigned own_columns(
    const DepthwiseConvLaunch& p, const ConvPlace<scalar_t>& of, const ConvRow<scalar_t>& row) {
  int begin = 0, end = p.width - row.token;
  if (p.tiles > 1) {
    if (of.place == 0) begin = 1;
    if (of.place == p.places - 1) end = min(end, kConvColumns - 1);
  }
  if (of.channel >= p.channels || end <= begin) return 0;
  return ((1u << min(end, kConvColumns)) - 1) & (~0u << begin);
}

// Writes the thread's channels of the columns that are its own.
template <bool kAligned, typename scalar_t, int kVector>
__device__ __forceinline__ void write_columns(const DepthwiseConvLaunch& p, const ConvPlace<scalar_t>& of,
    const ConvRow<scalar_t>& row, unsigned own, void* map, const acc_t<scalar_t> (&in)[kConvColumns][kVector]) {
  char* to = static_cast<char*>(map) + row.at;
#pragma unroll
  for (int c = 0; c < kConvColumns; ++c) {
    if constexpr (kAligned) {
      ConvPack<scalar_t> packed;
#pragma unroll
      for (int v = 0; v < kVector; ++v) packed.value[v] = static_cast<scalar_t>(in[c][v]);
      if (own >> c & 1) *reinterpret_cast<ConvPack<scalar_t>*>(to) = packed;
    } else {
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        if ((own >> c & 1) && of.channel + v < p.channels) {
          reinterpret_cast<scalar_t*>(to)[v] = static_cast<scalar_t>(in[c][v]);
        }
      }
    }
    to += static_cast<int64_t>(p.channels) * sizeof(scalar_t);
  }
}

// Reads the thread's channels of a parameter with `count` numbers a channel. What is missing is 0.
template <int kCount, int kVector, typename scalar_t>
__device__ __forceinline__ void read_parameter(const DepthwiseConvLaunch& p, const ConvPlace<scalar_t>& of,
    const void* parameter, acc_t<scalar_t> (&out)[kCount][kVector]) {
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    const bool inside = parameter != nullptr && of.channel + v < p.channels;
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const int64_t at = static_cast<int64_t>(of.channel + v) * kCount + k;
      out[k][v] = inside ? static_cast<const acc_t<scalar_t>*>(parameter)[at] : acc_t<scalar_t>(0);
    }
  }
}

}  // namespace
}  // namespace ssm
