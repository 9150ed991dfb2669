// Schema of the scaling of images, with the numbers of Pillow.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(ssm_train, m) {
  // image [H, W, C] uint8 -> [height, width, C] uint8, by cubic or linear interpolation
  m.def("resize(Tensor image, int height, int width, bool cubic) -> Tensor");
}
