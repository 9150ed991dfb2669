"""Tests of where the time of a step goes: names of kernels as an H200's profile has them, and a profile on the CPU."""

import pytest
import torch
import torch.nn.functional as F

from ssm_core.kernel_times import kernel_times, part_of, table
from ssm_core.ops import directional_scan

SELECTIVE = "ssm::SelectiveTreeScan<ssm::SelectiveKind<c10::BFloat16, 1, true, true> >"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("void ssm::(anonymous namespace)::norm_backward_kernel<c10::BFloat16, 4, 3>(ssm::NormLaunch)",
         "norms of this project"),
        ("void ssm::(anonymous namespace)::readout_kernel<c10::BFloat16, 4, 5>(ssm::ReadoutLaunch)", "state readout"),
        ("void ssm::(anonymous namespace)::gated_readout_backward_kernel<float, 4, 5>(ssm::GatedReadoutLaunch)",
         "state readout"),
        ("void ssm::(anonymous namespace)::whole_grid_kernel<float>(ssm::SpanningTreeLaunch)", "trees and quadtrees"),
        ("ssm::(anonymous namespace)::schedule_kernel(ssm::ScheduleLaunch)", "trees and quadtrees"),
        ("void ssm::(anonymous namespace)::mask_gradient_kernel<c10::BFloat16, 8>(c10::BFloat16 const*)",
         "trees and quadtrees"),
        ("void ssm::(anonymous namespace)::hopper_mlp_kernel<c10::BFloat16, 96>(ssm::HopperMlpLaunch)",
         "MLPs of this project"),
        ("void ssm::(anonymous namespace)::hopper_logits_kernel<c10::BFloat16, 192>(ssm::HopperLogitsLaunch)",
         "MLPs of this project"),
        (f"void ssm::walk_kernel<{SELECTIVE}, 8>({SELECTIVE}::Launch)", "scans"),
        ("void ssm::backward_kernel<true, c10::BFloat16>(ssm::ScanLaunch, ssm::SelectiveScanGradients)", "scans"),
        ("triton_per_fused__to_copy_gelu_gelu_backward_native_layer_norm_permute_38", "norms, compiled"),
        ("triton_poi_fused_gelu_gelu_backward_view_15", "GELU, compiled"),
        ("triton_poi_fused__to_copy_abs_add_exp2_gt_mul_pow_reciprocal_rsub_view_where_12", "GELU, compiled"),
        ("triton_poi_fused_add_convolution_backward_permute_silu_silu_backward_view_18", "SiLU, compiled"),
        ("triton_poi_fused_clone_transpose_90", "other, compiled"),
        ("dgrad2d_c1_k1_nhwc_specialized", "depthwise convolutions"),
        ("void ssm::(anonymous namespace)::depthwise_conv_kernel<c10::BFloat16, true>(ssm::DepthwiseConvLaunch)",
         "depthwise convolutions"),
        ("void ssm::(anonymous namespace)::column_sums_kernel<float, ssm::DepthwiseConvParams>(ssm::ColumnSums)",
         "depthwise convolutions"),
        ("void ssm::(anonymous namespace)::column_sums_kernel<float, ssm::NormParams>(ssm::ColumnSums)",
         "norms of this project"),
        ("sm90_xmma_dgrad_implicit_gemm_indexed_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize256x64x64", "convolutions"),
        ("void nhwcAddPaddingKernel<__nv_bfloat16, __nv_bfloat16, float, true>(int, int, int)", "convolutions"),
        ("nvjet_sm90_tst_160x128_64x5_1x2_h_bz_NNN", "products"),
        ("void cutlass::Kernel2<cutlass_75_tensorop_bf16_s1688gemm_bf16_64x64_nn_align1>(x)", "products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>(x)", "products"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<x>", "optimizer"),
        ("Memset (Device)", "copies and fills"),
        ("void at::native::reduce_kernel<128, 4, at::native::ReduceOp<float> >(x)", "reductions"),
        ("a kernel that nobody knows", "other"),
    ],
)  # fmt: skip
def test_a_kernel_belongs_to_a_part_by_its_name(name, part):
    assert part_of(name) == part


def test_every_operator_of_a_step_is_listed():
    a, x = torch.randn(500, 500), torch.randn(1, 16, 8)
    A, weights, order = -torch.ones(1, 8, 1), torch.randn(1, 1, 16, 1), torch.arange(16)

    def step():
        F.silu(a @ a)
        torch.mm(a, a)
        directional_scan(x, x[:, None], A, weights, weights, order=order)

    step()
    kernels = kernel_times(step, "cpu", steps=4)
    by_name = {kernel.name: kernel for kernel in kernels}
    assert kernels[0].name == "aten::mm"
    assert kernels[0].launches == 2
    assert by_name["aten::silu"].part == "SiLU, compiled"
    assert any("selective_scan" in name and kernel.part == "scans" for name, kernel in by_name.items())
    lines = table(kernels).splitlines()
    assert len(lines) == len(kernels) + len({kernel.part for kernel in kernels}) + 4
    total = next(line.split() for line in lines if line.startswith("total"))
    assert float(total[1]) == pytest.approx(sum(kernel.milliseconds for kernel in kernels), abs=1e-3)
