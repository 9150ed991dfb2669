// Rows cut into pieces, whose sums are computed one by one. The number of pieces depends on that of the rows and not on
// the threads, so that sums over rows always have the same order.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ssm {

inline int64_t pieces_of(int64_t rows) {
  constexpr int64_t kMostPieces = 64, kRowsOfPiece = 64;
  return std::clamp<int64_t>(rows / kRowsOfPiece, 1, kMostPieces);
}

inline int64_t first_row(int64_t rows, int64_t piece, int64_t pieces) {
  return rows * piece / pieces;
}

}  // namespace ssm
