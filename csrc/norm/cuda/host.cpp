// Host side of the norms on the GPU.

#include <algorithm>

#include "common/cuda/device.h"
#include "common/dispatch.h"
#include "norm/cuda/launch.h"
#include "norm/register.h"

namespace ssm {
namespace {

// Chooses how threads hold a row: in the widest vectors that all tensors allow, and in as few as hold it.
void share_rows(NormLaunch& p, int64_t narrow_bytes, int64_t wide_bytes, int64_t most_blocks) {
  bool fours = p.channels % kNormFiveFours.width == 0 && kNormFiveFours.team(p.channels) != 0;
  const auto look = [&](const void* data, bool wide) {
    fours = fours && in_vectors(data, kNormFiveFours.width, wide ? wide_bytes : narrow_bytes);
  };
  look(p.x, p.x_wide);
  look(p.gate, p.x_wide);
  look(p.grad_y, p.y_wide);
  for (const void* data : {p.residual, p.grad_stream, p.kept_stream}) look(data, p.stream_wide);
  const int five = kNormFiveFours.team(p.channels), three = kNormThreeFours.team(p.channels);
  // The hold that leaves fewer places empty.
  const bool three_fit = three != 0 && kNormThreeFours.items * three <= kNormFiveFours.items * five;
  p.shape = !fours ? NormShape::kOnes : three_fit ? NormShape::kThreeFours : NormShape::kFiveFours;
  p.team = !fours ? kNormOnes.team(p.channels) : three_fit ? three : five;
  SSM_CHECK(p.team != 0, "norm: at most ", kNormOnes.most_channels(), " channels, or ", kNormFiveFours.most_channels(),
      " in fours; got ", p.channels);
  p.blocks = std::max<int64_t>(1, blocks_of_rows(p.rows, kNormThreads, p.team, most_blocks));
}

int64_t bytes_of(ScalarType type) {
  return type == kDouble ? 8 : type == kFloat ? 4 : 2;
}

NormLaunch launch_of(const NormCall& call, int64_t most_blocks) {
  NormLaunch p{call.params, NormShape::kOnes, 0, 0, nullptr};
  const int64_t narrow = bytes_of(call.narrow);
  share_rows(p, narrow, narrow < 4 ? 4 : narrow, most_blocks);
  return p;
}

struct CudaPasses {
  static constexpr DeviceType device = kCUDA;

  static void forward(const NormCall& call, const Tensor& like) {
    if (call.params.rows == 0) return;
    const DeviceGuard guard(like.get_device_index());
    const NormLaunch p = launch_of(call, multiprocessors() * kNormBlocks);
    SSM_DISPATCH(call.narrow, "norm", [&] { launch_norm<scalar_t>(p); });
  }

  static void backward(const NormCall& call, const Tensor& weight) {
    if (call.params.channels == 0) return;
    const DeviceGuard guard(weight.get_device_index());
    NormLaunch p = launch_of(call, multiprocessors() * kNormBackwardBlocks);
    const Tensor partial = empty({p.blocks, kNormParameters, p.channels}, weight);
    p.partial = partial.mutable_data_ptr();
    SSM_DISPATCH(call.narrow, "norm_backward", [&] { launch_norm_backward<scalar_t>(p); });
  }
};

}  // namespace
}  // namespace ssm

SSM_REGISTER_NORMS(CUDA, ssm::CudaPasses)
