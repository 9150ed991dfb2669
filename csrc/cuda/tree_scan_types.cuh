// Picks the kernel of one pair of types.
#pragma once

#include "tree_scan_rounds.cuh"
#include "tree_scan_walk.cuh"

namespace ssm {

// The widths are channels of a thread where rows allow vectors.
template <typename scalar_t, typename weight_t, int kForwardWidth, int kBackwardWidth>
void launch_types(const TreeScanLaunch& l) {
  const auto pick = [&](auto both, auto backward) {
    constexpr bool kBoth = decltype(both)::value, kBackward = decltype(backward)::value;
    if (l.walk) {
      if constexpr (sizeof(scalar_t) == 2) {
        if (l.aligned && !prefers_narrow(l.batch, l.channels)) {
          return launch_walk<ScanKind<scalar_t, weight_t, 2, true, kBoth, kBackward>>(l);
        }
      }
      return l.aligned ? launch_walk<ScanKind<scalar_t, weight_t, 1, true, kBoth, kBackward>>(l)
                       : launch_walk<ScanKind<scalar_t, weight_t, 1, false, kBoth, kBackward>>(l);
    }
    // Narrow slices where wide ones would leave much of the GPU without work.
    constexpr int kWidth = kBackward ? kBackwardWidth : kForwardWidth;
    l.aligned&& l.batch* l.channels* largest_team() / 32 >= 2 * multiprocessors()
        ? launch_rounds<ScanKind<scalar_t, weight_t, kWidth, true, kBoth, kBackward>>(l)
        : launch_rounds<ScanKind<scalar_t, weight_t, 1, false, kBoth, kBackward>>(l);
  };
  const auto pick_both = [&](auto both) { l.backward ? pick(both, std::true_type()) : pick(both, std::false_type()); };
  l.both ? pick_both(std::true_type()) : pick_both(std::false_type());
}

}  // namespace ssm
