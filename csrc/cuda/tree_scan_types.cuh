// Picks the kernel of one pair of types.
#pragma once

#include "tree_scan_rounds.cuh"
#include "tree_scan_walk.cuh"

namespace ssm {

// The widths are channels of a thread where rows allow vectors. Narrow walks are more warps, wide ones fewer steps in
// all: with few of either, every warp is as long on its way and the narrow ones have the bandwidth.
template <typename scalar_t, typename weight_t, int kForwardWidth, int kBackwardWidth, int kWalkWidth = 2>
void launch_types(const TreeScanLaunch& l) {
  const auto pick = [&](auto both) {
    constexpr bool kBoth = decltype(both)::value;
    if (l.walk) {
      const bool wide = l.vectors && l.batch * l.channels / (32 * kWalkWidth) >= 4 * multiprocessors();
      if (l.backward) {
        return wide ? launch_walk<ScanKind<scalar_t, weight_t, kWalkWidth, kBoth, true>>(l)
                    : launch_walk<ScanKind<scalar_t, weight_t, 1, kBoth, true>>(l);
      }
      return wide ? launch_walk<ScanKind<scalar_t, weight_t, kWalkWidth, kBoth, false>>(l)
                  : launch_walk<ScanKind<scalar_t, weight_t, 1, kBoth, false>>(l);
    }
    // Narrow slices where wide ones would leave much of the GPU without work.
    const bool vectors = l.vectors && l.batch * l.channels * largest_team() / 32 >= 2 * multiprocessors();
    if (l.backward) {
      vectors ? launch_rounds<ScanKind<scalar_t, weight_t, kBackwardWidth, kBoth, true>>(l)
              : launch_rounds<ScanKind<scalar_t, weight_t, 1, kBoth, true>>(l);
    } else {
      vectors ? launch_rounds<ScanKind<scalar_t, weight_t, kForwardWidth, kBoth, false>>(l)
              : launch_rounds<ScanKind<scalar_t, weight_t, 1, kBoth, false>>(l);
    }
  };
  l.both ? pick(std::true_type()) : pick(std::false_type());
}

}  // namespace ssm
