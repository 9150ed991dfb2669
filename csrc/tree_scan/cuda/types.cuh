// Picks the kernel of one pair of types.
#pragma once

#include "tree_scan/cuda/walk.cuh"

namespace ssm {

template <typename scalar_t, typename weight_t>
void launch_types(const TreeScanLaunch& l) {
  const auto pick = [&](auto both, auto backward) {
    with_walk_shape<scalar_t>(l, [&](auto width, auto aligned) {
      constexpr int kWidth = decltype(width)::value;
      constexpr bool kAligned = decltype(aligned)::value, kBoth = decltype(both)::value,
                     kBackward = decltype(backward)::value;
      launch_scan<ScanKind<scalar_t, weight_t, kWidth, kAligned, kBoth, kBackward>>(l);
    });
  };
  const auto pick_both = [&](auto both) { l.backward ? pick(both, std::true_type()) : pick(both, std::false_type()); };
  l.both ? pick_both(std::true_type()) : pick_both(std::false_type());
}

}  // namespace ssm
