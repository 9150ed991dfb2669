// Host side of the stem's first half on the GPU.

#include <algorithm>
#include <limits>
#include <tuple>

#include "common/checks.h"
#include "common/cuda/architecture.h"
#include "common/cuda/device.h"
#include "common/cuda/two_layers.h"
#include "common/dispatch.h"
#include "common/integers.h"
#include "conv_norm_gelu/cuda/launch.h"
#include "conv_norm_gelu/cuda/tuning.h"

namespace ssm {
namespace {

const void* checked(const Tensor& tensor, const Tensor& images, Sizes shape, ScalarType dtype, const char* name) {
  const void* address = check_dense(tensor, images, shape, dtype, name);
  SSM_CHECK(reinterpret_cast<uintptr_t>(address) % 16 == 0, name, " must begin at a multiple of 16 bytes");
  return address;
}

// What both passes read, but for the images' address. Returns the shape of y.
ConvNormGeluLaunch launch_of(const Tensor& images, const Tensor& weight, const Tensor& bias, const Tensor& norm_weight,
    const Tensor& norm_bias, double eps) {
  SSM_CHECK(images.dim() == 4 && weight.dim() == 4, "images must be [B, 3, H, W] and weight [C, 3, 3, 3], got ",
      images.sizes(), " and ", weight.sizes());
  const auto half = weight.scalar_type();
  SSM_CHECK(half == kHalf || half == kBFloat16, "conv_norm_gelu takes weights of float16 or bfloat16, got ", half);
  SSM_CHECK(images.scalar_type() == kFloat || images.scalar_type() == half,
      "conv_norm_gelu takes images of float32 or of the weight's type, got ", images.scalar_type());
  const int64_t channels = weight.size(0);
  SSM_CHECK(conv_norm_gelu_has(channels), "conv_norm_gelu: there is no kernel for ", channels, " channels");
  check_device(images, kCUDA, images, "images");
  check_shape(images, {images.size(0), kColours, images.size(2), images.size(3)}, "images");
  check_contiguous(images, "images");
  // Tiles and their columns are counted by int.
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 4;
  const int64_t down = ceil_div(images.size(2), 2 * kStemWarps), across = ceil_div(images.size(3), 2 * kStemColumns);
  SSM_CHECK(images.size(0) < kMost && images.size(2) < kMost && images.size(3) < kMost &&
                (down == 0 || across == 0 || images.size(0) < kMost / down / across),
      "images are too large: ", images.sizes());
  ConvNormGeluLaunch p{};
  p.weight = checked(weight, images, {channels, kColours, kStemSide, kStemSide}, half, "weight");
  p.bias = static_cast<const float*>(checked(bias, images, {channels}, kFloat, "bias"));
  p.norm_weight = static_cast<const float*>(checked(norm_weight, images, {channels}, kFloat, "norm_weight"));
  p.norm_bias = static_cast<const float*>(checked(norm_bias, images, {channels}, kFloat, "norm_bias"));
  p.batch = static_cast<int>(images.size(0));
  p.height = static_cast<int>(images.size(2));
  p.width = static_cast<int>(images.size(3));
  p.out_height = (p.height + 1) / 2;
  p.out_width = (p.width + 1) / 2;
  p.channels = static_cast<int>(channels);
  p.eps = static_cast<float>(eps);
  p.tiles_down = static_cast<int>(down);
  p.tiles_across = static_cast<int>(across);
  p.tiles = p.batch * p.tiles_down * p.tiles_across;
  return p;
}

// Images of a half type are cast, which costs a pass over them: under autocast they are float.
Tensor wide(const Tensor& images) {
  return images.scalar_type() == kFloat ? images : cast(images, kFloat);
}

void set_images(ConvNormGeluLaunch& p, const Tensor& images) {
  p.images = images.const_data_ptr<float>();
  p.aligned = p.width % 4 == 0 && reinterpret_cast<uintptr_t>(p.images) % 16 == 0;
}

Tensor conv_norm_gelu(const Tensor& images, const Tensor& weight, const Tensor& bias, const Tensor& norm_weight,
    const Tensor& norm_bias, double eps) {
  ConvNormGeluLaunch p = launch_of(images, weight, bias, norm_weight, norm_bias, eps);
  const DeviceGuard guard(images.get_device_index());
  const Tensor y = empty({p.batch, p.out_height, p.out_width, p.channels}, weight);
  if (y.numel() == 0) return y;
  const Tensor pixels = wide(images);
  set_images(p, pixels);
  p.y = y.mutable_data_ptr();
  p.blocks = static_cast<int>(std::min<int64_t>(p.tiles, multiprocessors() * kStemMinBlocks));
  with_half_type(weight, [&](auto zero) { launch_conv_norm_gelu<decltype(zero)>(p); });
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> conv_norm_gelu_backward(const Tensor& grad_y_given, const Tensor& images,
    const Tensor& weight, const Tensor& bias, const Tensor& norm_weight, const Tensor& norm_bias, double eps) {
  ConvNormGeluLaunch p = launch_of(images, weight, bias, norm_weight, norm_bias, eps);
  const DeviceGuard guard(images.get_device_index());
  check_device(grad_y_given, kCUDA, images, "grad_y");
  const Tensor grad_y = contiguous(grad_y_given);
  p.grad_y = checked(grad_y, images, {p.batch, p.out_height, p.out_width, p.channels}, weight.scalar_type(), "grad_y");
  if (grad_y.numel() == 0) {
    return {
        zeros(weight.sizes(), bias), zeros(bias.sizes(), bias), zeros(bias.sizes(), bias), zeros(bias.sizes(), bias)};
  }
  const Tensor pixels = wide(images), grad_weight = empty(weight.sizes(), bias), grad_bias = empty(bias.sizes(), bias),
               grad_norm_weight = empty(bias.sizes(), bias), grad_norm_bias = empty(bias.sizes(), bias);
  set_images(p, pixels);
  p.of_group = static_cast<int>(ceil_div(p.tiles, kStemGroups));
  p.groups = static_cast<int>(ceil_div(p.tiles, p.of_group));
  p.blocks = static_cast<int>(std::min<int64_t>(p.groups, multiprocessors()));
  const Tensor partial = empty({p.groups, int64_t{kStemSums} * p.channels}, bias);
  p.partial = partial.mutable_data_ptr<float>();
  p.grad_weight = grad_weight.mutable_data_ptr<float>();
  p.grad_bias = grad_bias.mutable_data_ptr<float>();
  p.grad_norm_weight = grad_norm_weight.mutable_data_ptr<float>();
  p.grad_norm_bias = grad_norm_bias.mutable_data_ptr<float>();
  with_half_type(weight, [&](auto zero) { launch_conv_norm_gelu_backward<decltype(zero)>(p); });
  return {grad_weight, grad_bias, grad_norm_weight, grad_norm_bias};
}

// Whether the present library and a device have kernels for so many channels.
bool conv_norm_gelu_fits(int64_t channels, int64_t device) {
  if (!conv_norm_gelu_has(channels)) return false;
  const DeviceGuard guard(static_cast<int32_t>(device));
  const size_t bytes = StemMemory<c10::Half>(true, static_cast<int>(channels), nullptr).bytes;
  return library_architecture("conv_norm_gelu") >= kFirstWithFragments && bytes <= present_device().block_shared;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ssm_build, m) {
  m.def("conv_norm_gelu_fits(int channels, int device) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(ssm_build, CompositeExplicitAutograd, m) {
  m.impl("conv_norm_gelu_fits", TORCH_BOX(&conv_norm_gelu_fits));
}

STABLE_TORCH_LIBRARY_IMPL(ssm_core, CUDA, m) {
  m.impl("conv_norm_gelu", TORCH_BOX(&conv_norm_gelu));
  m.impl("conv_norm_gelu_backward", TORCH_BOX(&conv_norm_gelu_backward));
}

}  // namespace ssm
