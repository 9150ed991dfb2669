// How the threads of a block share rows of channels.
#pragma once

#include <cstdint>

namespace ssm {

// A team of neighbouring threads has a row. A thread holds `items` vectors of `width` neighbouring channels; the
// vectors of a team's threads lie side by side.
struct RowShape {
  int threads;  // of a block, a power of two
  int width, items;
  int least = 1;  // threads of a team, a power of two

  // Threads of a team, a power of two; 0 if a block has too few.
  constexpr int team(int64_t channels) const {
    int team = least;
    while (team <= threads && static_cast<int64_t>(team) * width * items < channels) team *= 2;
    return team <= threads ? team : 0;
  }
  constexpr int64_t most_channels() const { return static_cast<int64_t>(threads) * width * items; }
};

// Whether a tensor's rows can be read in vectors: their channels are a multiple of `width`, so that the first address
// decides.
inline bool in_vectors(const void* data, int width, int64_t item_bytes) {
  const int64_t bytes = width * item_bytes < 16 ? width * item_bytes : 16;
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(bytes) == 0;
}

// Blocks that have `rows` rows at once, but `most` at most.
constexpr int64_t blocks_of_rows(int64_t rows, int threads, int team, int64_t most) {
  const int64_t teams = threads / team, all = (rows + teams - 1) / teams;
  return all < most ? all : most;
}

}  // namespace ssm
