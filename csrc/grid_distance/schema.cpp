// Schema of the distances along the edges of the 4-connected grid.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(tree_ssm, m) {
  // x [B, H, W, D] -> exp(-cosine) of the two ends of each edge [B, E]
  m.def("grid_cosine_distance(Tensor x) -> Tensor");
}
