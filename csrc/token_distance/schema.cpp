// Schema of the distances between tokens, which has a kernel for GPUs alone.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(tree_ssm, m) {
  // x, delta [B, L, D]; delta_bias [D]; B [B, L, N]; start, end [B]
  // -> weights of the edges between tokens at distance 1 to `reach` [B, E]
  m.def(
      "token_distance(Tensor x, Tensor delta, Tensor delta_bias, Tensor B, Tensor start, Tensor end, int reach) -> "
      "Tensor");
}
