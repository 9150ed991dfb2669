// y = C · LN(h) + D · x for one state a channel, forward and backward, each in one pass over memory.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "../dispatch.h"
#include "../state_readout.h"

namespace ssm {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
// Parameters and the sums of their gradients lie in shared memory, three each.
constexpr int kParameters = 3;

// A row is shared by `team` threads (a power of two), each of which holds kItems vectors of kVector channels of it.
struct RowLaunch {
  const void *h, *x, *C, *grad_y;
  const void *D, *weight, *bias;
  void *y, *grad_h, *grad_x, *grad_C, *partial;
  int64_t rows, length, C_batch_stride, C_token_stride;
  int channels, team;
  double eps;
};

template <typename scalar_t, int kVector>
struct alignas(sizeof(scalar_t) * kVector > 16 ? 16 : sizeof(scalar_t) * kVector) Packed {
  scalar_t value[kVector];
};

template <typename scalar_t, int kVector>
__device__ Packed<scalar_t, kVector> load_packed(const void* base, int64_t at) {
  return *reinterpret_cast<const Packed<scalar_t, kVector>*>(static_cast<const scalar_t*>(base) + at);
}

template <typename acc, typename scalar_t, int kVector>
__device__ void load(const void* base, int64_t at, acc (&out)[kVector]) {
  const auto packed = load_packed<scalar_t, kVector>(base, at);
#pragma unroll
  for (int v = 0; v < kVector; ++v) out[v] = static_cast<acc>(packed.value[v]);
}

template <typename acc, typename scalar_t, int kVector>
__device__ void store(void* base, int64_t at, const acc (&in)[kVector]) {
  Packed<scalar_t, kVector> packed;
#pragma unroll
  for (int v = 0; v < kVector; ++v) packed.value[v] = static_cast<scalar_t>(in[v]);
  *reinterpret_cast<Packed<scalar_t, kVector>*>(static_cast<scalar_t*>(base) + at) = packed;
}

// Sums of kCount values over a row's team; every thread of the block takes part, every thread gets its row's sums.
template <int kCount, typename acc>
__device__ void team_sum(acc (&value)[kCount], int team, acc* scratch) {
  for (int offset = min(team, 32) / 2; offset > 0; offset /= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) value[i] += __shfl_xor_sync(0xffffffffu, value[i], offset);
  }
  if (team <= 32) return;
  const int warp = threadIdx.x / 32, first = threadIdx.x / team * (team / 32);
  __syncthreads();  // the last sum has been read by all
  if (threadIdx.x % 32 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) scratch[warp * kCount + i] = value[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    value[i] = 0;
    for (int w = first; w < first + team / 32; ++w) value[i] += scratch[w * kCount + i];
  }
}

// The three parameters, channel by channel, where the whole block can read them.
template <typename acc>
__device__ void share_parameters(const RowLaunch& p, acc* shared) {
  const void* sources[kParameters] = {p.weight, p.bias, p.D};
  for (int k = 0; k < kParameters; ++k) {
    for (int c = threadIdx.x; c < p.channels; c += kThreads) {
      shared[k * p.channels + c] = static_cast<const acc*>(sources[k])[c];
    }
  }
  __syncthreads();
}

// One row of h: its values, less the mean, times the inverse standard deviation.
template <typename state_t, int kVector, int kItems, typename acc>
__device__ acc normalized_row(
    const RowLaunch& p, int64_t row, bool live, int lane, acc (&h)[kItems][kVector], acc* scratch) {
  acc sum[1] = {0};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int channel = (i * p.team + lane) * kVector;
    if (live && channel < p.channels) load<acc, state_t>(p.h, row * p.channels + channel, h[i]);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      if (!live || channel >= p.channels) h[i][v] = 0;
      sum[0] += h[i][v];
    }
  }
  team_sum(sum, p.team, scratch);
  const acc mean = sum[0] / p.channels;
  acc square[1] = {0};
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool inside = (i * p.team + lane) * kVector < p.channels;
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      h[i][v] = inside ? h[i][v] - mean : acc(0);
      square[0] += h[i][v] * h[i][v];
    }
  }
  team_sum(square, p.team, scratch);
  const acc scale = rsqrt(square[0] / p.channels + static_cast<acc>(p.eps));
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) h[i][v] *= scale;
  }
  return scale;
}

template <typename scalar_t, typename acc>
__device__ acc output_weight(const RowLaunch& p, int64_t row) {
  const int64_t at = row / p.length * p.C_batch_stride + row % p.length * p.C_token_stride;
  return static_cast<acc>(static_cast<const scalar_t*>(p.C)[at]);
}

template <typename scalar_t, typename state_t, int kVector, int kItems>
__global__ void __launch_bounds__(kThreads) readout_kernel(RowLaunch p) {
  using acc = acc_t<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  acc* scratch = reinterpret_cast<acc*>(memory);
  acc* parameters = scratch + kWarps;
  share_parameters(p, parameters);
  const int lane = threadIdx.x % p.team, teams = kThreads / p.team;
  // All teams of a block make the same number of turns, since they wait for each other in team_sum.
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < p.rows;
      first += static_cast<int64_t>(gridDim.x) * teams) {
    const int64_t row = first + threadIdx.x / p.team;
    const bool live = row < p.rows;
    acc h[kItems][kVector];
    normalized_row<state_t>(p, row, live, lane, h, scratch);
    if (!live) continue;
    const acc C = output_weight<scalar_t, acc>(p, row);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = (i * p.team + lane) * kVector;
      if (channel >= p.channels) continue;
      acc x[kVector];
      load<acc, scalar_t>(p.x, row * p.channels + channel, x);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const acc* of = parameters + channel + v;
        x[v] = C * (h[i][v] * of[0] + of[p.channels]) + of[2 * p.channels] * x[v];
      }
      store<acc, scalar_t>(p.y, row * p.channels + channel, x);
    }
  }
}

// The block's sums over its rows of what each channel's parameters get, in the order of the teams.
template <int kVector, int kItems, typename acc>
__device__ void write_partial(const RowLaunch& p, const acc (&sums)[kParameters][kItems][kVector], acc* shared) {
  const int lane = threadIdx.x % p.team;
  __syncthreads();
  for (int c = threadIdx.x; c < kParameters * p.channels; c += kThreads) shared[c] = 0;
  for (int turn = 0; turn < kThreads / p.team; ++turn) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) / p.team != turn) continue;
#pragma unroll
    for (int k = 0; k < kParameters; ++k) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const int channel = (i * p.team + lane) * kVector;
        if (channel >= p.channels) continue;
#pragma unroll
        for (int v = 0; v < kVector; ++v) shared[k * p.channels + channel + v] += sums[k][i][v];
      }
    }
  }
  __syncthreads();
  acc* out = static_cast<acc*>(p.partial) + static_cast<int64_t>(blockIdx.x) * kParameters * p.channels;
  for (int c = threadIdx.x; c < kParameters * p.channels; c += kThreads) out[c] = shared[c];
}

// With n = LN(h) before its weight w and bias b: ∂C = Σ g (n w + b), ∂x = D g, and ∂h as for a layer norm whose output
// has the gradient C g; the parameters get ∂w = Σ C g n, ∂b = Σ C g, ∂D = Σ g x over the rows.
template <typename scalar_t, typename state_t, int kVector, int kItems>
__global__ void __launch_bounds__(kThreads, 3) readout_backward_kernel(RowLaunch p) {
  using acc = acc_t<scalar_t>;
  extern __shared__ __align__(16) char memory[];
  acc* scratch = reinterpret_cast<acc*>(memory);
  acc* parameters = scratch + kParameters * kWarps;
  share_parameters(p, parameters);
  const int lane = threadIdx.x % p.team, teams = kThreads / p.team;
  acc sums[kParameters][kItems][kVector] = {};
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * teams; first < p.rows;
      first += static_cast<int64_t>(gridDim.x) * teams) {
    const int64_t row = first + threadIdx.x / p.team;
    const bool live = row < p.rows;
    // Asked for here, so that they are on their way while the row is normed.
    Packed<scalar_t, kVector> grad_y[kItems], inputs[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = (i * p.team + lane) * kVector;
      if (!live || channel >= p.channels) continue;
      grad_y[i] = load_packed<scalar_t, kVector>(p.grad_y, row * p.channels + channel);
      inputs[i] = load_packed<scalar_t, kVector>(p.x, row * p.channels + channel);
    }
    acc n[kItems][kVector], g[kItems][kVector];
    const acc scale = normalized_row<state_t>(p, row, live, lane, n, scratch);
    const acc C = live ? output_weight<scalar_t, acc>(p, row) : acc(0);
    acc of_row[3] = {0, 0, 0};  // ∂C, Σ w g, Σ w g n
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = (i * p.team + lane) * kVector;
      const int64_t at = row * p.channels + channel;
      const bool inside = live && channel < p.channels;
      acc x[kVector];
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        g[i][v] = inside ? static_cast<acc>(grad_y[i].value[v]) : acc(0);
        x[v] = inside ? static_cast<acc>(inputs[i].value[v]) : acc(0);
        const acc* of = parameters + (inside ? channel + v : 0);
        const acc weighted = g[i][v] * of[0];
        of_row[0] += weighted * n[i][v] + g[i][v] * of[p.channels];
        of_row[1] += weighted;
        of_row[2] += weighted * n[i][v];
        sums[0][i][v] += C * g[i][v] * n[i][v];
        sums[1][i][v] += C * g[i][v];
        sums[2][i][v] += g[i][v] * x[v];
        x[v] = of[2 * p.channels] * g[i][v];
        g[i][v] = weighted;
      }
      if (inside) store<acc, scalar_t>(p.grad_x, at, x);
    }
    team_sum(of_row, p.team, scratch);
    if (!live) continue;
    if (lane == 0) static_cast<scalar_t*>(p.grad_C)[row] = static_cast<scalar_t>(of_row[0]);
    const acc mean = of_row[1] / p.channels, slope = of_row[2] / p.channels, factor = C * scale;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int channel = (i * p.team + lane) * kVector;
      if (channel >= p.channels) continue;
#pragma unroll
      for (int v = 0; v < kVector; ++v) g[i][v] = factor * (g[i][v] - mean - n[i][v] * slope);
      store<acc, state_t>(p.grad_h, row * p.channels + channel, g[i]);
    }
  }
  write_partial(p, sums, parameters);
}

bool aligned(const at::Tensor& tensor, size_t bytes) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % std::min<size_t>(bytes, 16) == 0;
}

// Threads to a row, so that each holds at most `items` vectors of it; 0 if the block is too small.
int team_size(int64_t channels, int vector, int items) {
  int team = 1;
  while (team <= kThreads && static_cast<int64_t>(team) * vector * items < channels) team *= 2;
  return team <= kThreads ? team : 0;
}

int64_t blocks_for(int64_t rows, int team, int64_t most) {
  const int64_t teams = kThreads / team;
  return std::min((rows + teams - 1) / teams, most);
}

template <typename scalar_t>
size_t shared_bytes(int channels, int scratch) {
  return sizeof(acc_t<scalar_t>) * (kParameters * static_cast<size_t>(channels) + scratch);
}

template <typename Kernel>
void launch(Kernel kernel, const RowLaunch& p, int64_t blocks, size_t shared) {
  if (shared > 48 * 1024) {
    C10_CUDA_CHECK(cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  }
  kernel<<<static_cast<unsigned>(blocks), kThreads, shared, at::cuda::getCurrentCUDAStream()>>>(p);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// Calls `run(vector, items)` with the widest vectors that fit the row.
template <typename Run>
void with_row_shape(bool wide, int64_t channels, Run run) {
  using std::integral_constant;
  if (wide && team_size(channels, 4, 5) != 0) {
    run(integral_constant<int, 4>(), integral_constant<int, 5>());
  } else {
    TORCH_CHECK(team_size(channels, 1, 8) != 0, "state_readout: at most ", kThreads * 8, " channels, or ",
        kThreads * 20, " in fours; got ", channels);
    run(integral_constant<int, 1>(), integral_constant<int, 8>());
  }
}

// The state is of the dtype of x, or of what it is computed in.
template <typename Run>
void with_types(at::ScalarType input, at::ScalarType state, Run run) {
  SSM_DISPATCH(input, "state_readout", [&] {
    if (state == input) {
      run(scalar_t(), scalar_t());
    } else {
      run(scalar_t(), acc_t<scalar_t>());
    }
  });
}

RowLaunch describe(const ReadoutInputs& in) {
  RowLaunch p{};
  p.h = in.h.const_data_ptr();
  p.x = in.x.const_data_ptr();
  p.C = in.C.const_data_ptr();
  p.D = in.D.const_data_ptr();
  p.weight = in.weight.const_data_ptr();
  p.bias = in.bias.const_data_ptr();
  p.rows = in.x.size(0) * in.x.size(1);
  p.length = in.x.size(1);
  p.channels = static_cast<int>(in.x.size(2));
  p.C_batch_stride = in.C.stride(0);
  p.C_token_stride = in.C.stride(1);
  p.eps = in.eps;
  return p;
}

at::Tensor state_readout(const at::Tensor& h, const at::Tensor& x, const at::Tensor& C, const at::Tensor& D,
    const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const ReadoutInputs in{h, x, C, D, weight, bias, eps};
  check_readout(in, at::kCUDA);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor y = at::empty_like(x);
  if (x.numel() == 0) return y;
  RowLaunch p = describe(in);
  p.y = y.mutable_data_ptr();
  with_types(x.scalar_type(), h.scalar_type(), [&](auto scalar, auto state) {
    using scalar_t = decltype(scalar);
    using state_t = decltype(state);
    const bool wide = p.channels % 4 == 0 && aligned(h, 4 * sizeof(state_t)) && aligned(x, 4 * sizeof(scalar_t));
    with_row_shape(wide, p.channels, [&](auto vector, auto items) {
      p.team = team_size(p.channels, vector, items);
      launch(readout_kernel<scalar_t, state_t, vector, items>, p, blocks_for(p.rows, p.team, 4096),
          shared_bytes<scalar_t>(p.channels, kWarps));
    });
  });
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> state_readout_backward(
    const at::Tensor& grad_y, const at::Tensor& h, const at::Tensor& x, const at::Tensor& C, const at::Tensor& D,
    const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const ReadoutInputs in{h, x, C, D, weight, bias, eps};
  check_readout(in, at::kCUDA);
  const at::Tensor g = grad_y.contiguous();
  check_gradient(g, in);
  const c10::cuda::CUDAGuard guard(x.device());
  at::Tensor grad_h = at::empty_like(h), grad_x = at::empty_like(x);
  at::Tensor grad_C = at::empty(C.sizes(), C.options());
  if (x.numel() == 0) return {grad_h, grad_x, grad_C.zero_(), at::zeros_like(D), at::zeros_like(D), at::zeros_like(D)};
  RowLaunch p = describe(in);
  p.grad_y = g.const_data_ptr();
  p.grad_h = grad_h.mutable_data_ptr();
  p.grad_x = grad_x.mutable_data_ptr();
  p.grad_C = grad_C.mutable_data_ptr();
  at::Tensor partial;
  with_types(x.scalar_type(), h.scalar_type(), [&](auto scalar, auto state) {
    using scalar_t = decltype(scalar);
    using state_t = decltype(state);
    const bool wide = p.channels % 4 == 0 && aligned(h, 4 * sizeof(state_t)) && aligned(x, 4 * sizeof(scalar_t)) &&
                      aligned(g, 4 * sizeof(scalar_t));
    with_row_shape(wide, p.channels, [&](auto vector, auto items) {
      p.team = team_size(p.channels, vector, items);
      // The number of blocks, and so the order of the sums, depends on the shape alone.
      const int64_t blocks = blocks_for(p.rows, p.team, 528);
      partial = at::empty({blocks, kParameters, p.channels}, D.options());
      p.partial = partial.mutable_data_ptr();
      launch(readout_backward_kernel<scalar_t, state_t, vector, items>, p, blocks,
          shared_bytes<scalar_t>(p.channels, kParameters * kWarps));
    });
  });
  const at::Tensor sums = partial.sum(0);
  return {grad_h, grad_x, grad_C, sums[2].clone(), sums[0].clone(), sums[1].clone()};
}

}  // namespace

TORCH_LIBRARY_IMPL(tree_ssm, CUDA, m) {
  m.impl("state_readout", &state_readout);
  m.impl("state_readout_backward", &state_readout_backward);
}

}  // namespace ssm
