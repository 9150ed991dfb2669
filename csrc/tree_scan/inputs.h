// The host side that the CPU and the CUDA kernels of the tree scan share: checks, and tensors to raw pointers.
#pragma once

#include "common/checks.h"
#include "tree/inputs.h"
#include "tree_scan/params.h"

namespace ssm {

// The checked inputs, and the tensors that the parameters point into. Whether the tree is one is not checked here.
struct TreeScanInputs {
  Tensor u, weight, parent, order;
  TreeScanParams params{};

  // Vertices must be fewer than `limit`.
  TreeScanInputs(DeviceType device, const Tensor& u_given, const Tensor& weight_given, const Tensor& parent_given,
      const Tensor& order_given, bool both, int64_t limit) {
    check_vertex_rows(u_given, "u", limit);
    check_shape(weight_given, u_given.sizes(), "weight");
    const bool is_half = u_given.scalar_type() == kHalf || u_given.scalar_type() == kBFloat16;
    if (!(is_half && weight_given.scalar_type() == kFloat)) {
      check_dtype(weight_given, u_given.scalar_type(), "weight");
    }
    for (const auto& index : {parent_given, order_given}) check_tree_index(index, u_given, device);
    check_device(u_given, device, u_given, "u");
    check_device(weight_given, device, u_given, "weight");

    u = with_adjacent_channels(u_given);
    weight = with_adjacent_channels(weight_given);
    parent = contiguous(parent_given);
    order = contiguous(order_given);
    params.batch = u.size(0);
    params.length = u.size(1);
    params.channels = u.size(2);
    params.both = both;
    params.parent = parent.const_data_ptr<int64_t>();
    params.order = order.const_data_ptr<int64_t>();
    params.u = u.const_data_ptr();
    params.weight = weight.const_data_ptr();
    params.u_stride = vertex_strides(u);
    params.weight_stride = vertex_strides(weight);
  }
};

// The gradient that comes in, checked, and the results that the backward pass fills.
struct TreeScanResults {
  Tensor grad_h, grad_u, grad_weight;
  TreeScanGradients gradients;

  TreeScanResults(const Tensor& grad_h_given, const Tensor& u, const Tensor& weight) {
    check_device(grad_h_given, u.device().type(), u, "grad_h");
    check_shape(grad_h_given, u.sizes(), "grad_h");
    check_dtype(grad_h_given, u.scalar_type(), "grad_h");
    grad_h = with_adjacent_channels(grad_h_given);
    grad_u = empty(u.sizes(), u);
    grad_weight = empty(weight.sizes(), weight);
    gradients = {grad_h.const_data_ptr(), vertex_strides(grad_h), grad_u.data_ptr(), grad_weight.data_ptr()};
  }
};

}  // namespace ssm
