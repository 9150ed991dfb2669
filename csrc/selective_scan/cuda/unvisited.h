// After a scan along an order: sets the results of tokens that the order leaves out to zero.
#pragma once

#include "common/cuda/unvisited.h"
#include "selective_scan/params.h"

namespace ssm {

void launch_clear_unvisited(const SelectiveScanParams& params, const ScanResults& results);

}  // namespace ssm
