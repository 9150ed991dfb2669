// Schema of the score predictor's logits.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(quadtree_ssm, m) {
  // x [T, D]; gamma, beta [D]; weight1 [D, D]; weight2 [D/2, D]; weight3 [D/4, D/2]; weight4 [D/4]; bias4 []
  // -> weight4 · g(W3 g(W2 g(W1 LN(x) + b1) + b2) + b3) + bias4 [T], with g = GELU
  m.def(
      "token_logits(Tensor x, Tensor gamma, Tensor beta, float eps, Tensor weight1, Tensor bias1, Tensor weight2, "
      "Tensor bias2, Tensor weight3, Tensor bias3, Tensor weight4, Tensor bias4) -> Tensor logits");
}
