// What the library was compiled with and for, for error messages and for `python -m ssm_core.doctor`.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/version.h>

#include <string>

#ifdef SSM_CUDA_ARCHITECTURES
#include <cuda_runtime_api.h>
#endif

namespace ssm {
namespace {

#if defined(__clang__)
constexpr char kCompiler[] = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr char kCompiler[] = "g++ " __VERSION__;
#else
constexpr char kCompiler[] = "another compiler";
#endif

// Lines of a name, "=" and a value.
std::string build_info() {
  std::string info = std::string("torch=") + TORCH_VERSION + "\ncompiler=" + kCompiler;
#ifdef SSM_CUDA_ARCHITECTURES
  info += "\ncuda=" + std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  info += std::string("\narchitectures=") + SSM_CUDA_ARCHITECTURES;
#endif
  return info;
}

}  // namespace

// A namespace of its own, since these are no operators on tensors.
STABLE_TORCH_LIBRARY_FRAGMENT(ssm_build, m) {
  m.def("info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(ssm_build, CompositeExplicitAutograd, m) {
  m.impl("info", TORCH_BOX(&build_info));
}

}  // namespace ssm
