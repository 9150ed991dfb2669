// What the hosts of the state's readout with a gated norm hand to a kernel: raw pointers, sizes and strides.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

#include "state_readout/params.h"

namespace ssm {

// r = C · LN(h) + D · x, rounded to scalar_t; y = LN(r) · silu(gate) with a weight and a bias of its own. What is not
// named here is as in ReadoutParams, whose y and grad_y are those of this operator.
struct GatedReadoutParams : ReadoutParams {
  const void* gate;                   // scalar_t [rows, channels]; the channels of a row lie side by side
  const void *out_weight, *out_bias;  // acc, contiguous [channels]
  void* grad_gate;                    // scalar_t, contiguous [rows, channels]

  int64_t gate_stride;  // elements from row to row of the gate
  double out_eps;
};

// The sums of the parameters' gradients have this order: weight, bias, D, out_weight, out_bias.
constexpr int kGatedReadoutParameters = kReadoutParameters + 2;

}  // namespace ssm
