// Picks the kernel of one pair of types.
#pragma once

#include "tree_scan_walk.cuh"

namespace ssm {

template <typename scalar_t, typename weight_t>
void launch_types(const TreeScanLaunch& l) {
  const auto pick = [&](auto both, auto backward) {
    constexpr bool kBoth = decltype(both)::value, kBackward = decltype(backward)::value;
    if constexpr (sizeof(scalar_t) == 2) {
      if (l.aligned && !l.prefers_narrow()) {
        return launch_scan<ScanKind<scalar_t, weight_t, 2, true, kBoth, kBackward>>(l);
      }
    }
    return l.aligned ? launch_scan<ScanKind<scalar_t, weight_t, 1, true, kBoth, kBackward>>(l)
                     : launch_scan<ScanKind<scalar_t, weight_t, 1, false, kBoth, kBackward>>(l);
  };
  const auto pick_both = [&](auto both) { l.backward ? pick(both, std::true_type()) : pick(both, std::false_type()); };
  l.both ? pick_both(std::true_type()) : pick_both(std::false_type());
}

}  // namespace ssm
