// The norms over channels, forward and backward, on the CPU.

#include <algorithm>
#include <vector>

#include "common/cpu/pieces.h"
#include "norm/cpu/rows.h"
#include "norm/register.h"

namespace ssm {
namespace {

constexpr int64_t kRowsOfThread = 64;  // that a thread takes at least

struct CpuPasses {
  static constexpr DeviceType device = kCPU;

  static void forward(const NormCall& call, const Tensor&) {
    const NormParams& p = call.params;
    SSM_DISPATCH(call.narrow, "norm", [&] {
      using acc = acc_t<scalar_t>;
      torch::stable::parallel_for(0, p.rows, kRowsOfThread, [&](int64_t begin, int64_t end) {
        std::vector<acc> work(kNormWork * p.channels);
        for (int64_t row = begin; row < end; ++row) norm_row<scalar_t>(p, row, work.data());
      });
    });
  }

  static void backward(const NormCall& call, const Tensor& weight) {
    const NormParams& p = call.params;
    const int64_t pieces = pieces_of(p.rows);
    const int64_t width = int64_t{kNormParameters} * p.channels;
    Tensor parts = zeros({pieces, width}, weight);
    SSM_DISPATCH(call.narrow, "norm_backward", [&] {
      using acc = acc_t<scalar_t>;
      acc* const sums = parts.mutable_data_ptr<acc>();
      torch::stable::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
        std::vector<acc> work(kNormBackwardWork * p.channels);
        for (int64_t piece = begin; piece < end; ++piece) {
          for (int64_t row = first_row(p.rows, piece, pieces); row < first_row(p.rows, piece + 1, pieces); ++row) {
            norm_backward_row<scalar_t>(p, row, sums + piece * width, work.data());
          }
        }
      });
      for (int64_t piece = 1; piece < pieces; ++piece) {
        for (int64_t c = 0; c < width; ++c) sums[c] += sums[piece * width + c];
      }
      std::copy(sums, sums + p.channels, static_cast<acc*>(p.grad_weight));
      std::copy(sums + p.channels, sums + width, static_cast<acc*>(p.grad_bias));
    });
  }
};

}  // namespace
}  // namespace ssm

SSM_REGISTER_NORMS(CPU, ssm::CpuPasses)
