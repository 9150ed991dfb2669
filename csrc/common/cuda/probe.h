// A kernel that does nothing. What it was compiled for, all kernels of the library were compiled for.
#pragma once

namespace ssm {

const void* probe_kernel();

}  // namespace ssm
