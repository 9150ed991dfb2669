// The results of tokens that no step of a scan visits. An order that is no permutation, or the schedule of what is no
// tree, leaves tokens out. A scan writes none of their rows, so that they would hold what was in the memory before. A
// kernel after the scan sets them to zero. Where every token is visited, it only reads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ssm {

// A result with a row for each token of some sequences: [parts, batch, sequences / share, L, bytes], contiguous.
struct TokenRows {
  void* data;
  int64_t bytes;      // of a row: a multiple of 2, as the elements of all types have
  int64_t parts = 1;  // that are added up later
  int64_t share = 1;  // neighbouring sequences whose sum one row is; it becomes 0 where one of them has no such step
  bool next = false;  // whether a step writes the row of the token after its own; that of the last token, the first
};

// All results of a scan. Those without data are left out.
constexpr int kMostResults = 4;
struct ScanResults {
  TokenRows rows[kMostResults];
};

// A block looks after a window of so many tokens, with a byte of shared memory for each, and reads all steps of the
// sequence for it. Bits would need atomics, which take turns where neighbouring tokens share a word.
constexpr int kVisitWindow = 32768;
// Threads of a block at most, and steps that a thread reads before it uses the first.
constexpr int kVisitThreads = 512;
constexpr int kVisitsAhead = 8;

constexpr int64_t visit_windows(int64_t length) {
  return (length + kVisitWindow - 1) / kVisitWindow;
}
constexpr size_t visit_bytes(int64_t length) {
  return static_cast<size_t>((length < kVisitWindow ? length + 15 : kVisitWindow) / 16 * 16);
}
// Whole warps, a thread for each kVisitsAhead steps.
constexpr unsigned visit_threads(int64_t length) {
  const int64_t threads = (length + 32 * kVisitsAhead - 1) / (32 * kVisitsAhead) * 32;
  return static_cast<unsigned>(threads < kVisitThreads ? threads : kVisitThreads);
}
// Blocks of a launch. They take the windows in turns.
constexpr int64_t visit_blocks(int64_t sequences, int64_t length) {
  constexpr int64_t kMost = int64_t(1) << 24;
  const int64_t windows = sequences * visit_windows(length);
  return windows < kMost ? windows : kMost;
}

}  // namespace ssm
