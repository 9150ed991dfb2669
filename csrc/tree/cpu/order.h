// Trees as the CPU kernels follow them: the vertex and its parent at each step of an order that lists parents first.
#pragma once

#include "common/checks.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace ssm {

// [B, L]
struct TreeOrder {
  std::vector<int32_t> vertex, parent;
};

// Fills one sample's rows. Returns false unless the order lists every vertex once and parents before their children.
inline bool follow_order(const int64_t* parent, const int64_t* order, int64_t length, int32_t* vertex_at,
    int32_t* parent_at, std::vector<int32_t>& place) {
  std::fill(place.begin(), place.end(), -1);
  for (int64_t t = 0; t < length; ++t) {
    const int64_t v = order[t];
    if (v < 0 || v >= length || place[v] >= 0) return false;
    const int64_t above = parent[v];
    if (above < 0 || above >= length) return false;
    if (t == 0 ? above != v : place[above] < 0) return false;
    place[v] = static_cast<int32_t>(t);
    vertex_at[t] = static_cast<int32_t>(v);
    parent_at[t] = static_cast<int32_t>(above);
  }
  return true;
}

// `parent` and `order` are contiguous [B, L]. The error names `op`.
inline TreeOrder follow_orders(
    const int64_t* parent, const int64_t* order, int64_t batch, int64_t length, const char* op) {
  TreeOrder tree{std::vector<int32_t>(batch * length), std::vector<int32_t>(batch * length)};
  std::vector<uint8_t> valid(batch);
  torch::stable::parallel_for(0, batch, 1 + 16384 / length, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> place(length);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t row = b * length;
      valid[b] =
          follow_order(parent + row, order + row, length, tree.vertex.data() + row, tree.parent.data() + row, place);
    }
  });
  const int64_t bad = std::find(valid.begin(), valid.end(), 0) - valid.begin();
  SSM_CHECK_VALUE(bad == batch, op, ": tree is not a tree in sample ", bad,
      ": its order must list every vertex once, parents before their children, and begin with the root, its own "
      "parent");
  return tree;
}

}  // namespace ssm
