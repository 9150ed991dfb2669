// Lists of the numbers of channels that kernels are compiled for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <type_traits>
#include <utility>

namespace ssm {

template <size_t kCount>
constexpr bool is_listed(const int (&list)[kCount], int64_t channels) {
  for (const int known : list) {
    if (channels == known) return true;
  }
  return false;
}

// Calls `run` with the number of channels as a constant, if it is in the list.
template <const auto& kList, typename Run>
void with_listed(int channels, const Run& run) {
  const auto compare = [&]<size_t... kPlaces>(std::index_sequence<kPlaces...>) {
    ((channels == kList[kPlaces] ? run(std::integral_constant<int, kList[kPlaces]>()) : void()), ...);
  };
  compare(std::make_index_sequence<std::size(kList)>());
}

}  // namespace ssm
