// What the library was compiled with and for, for error messages and for `python -m ssm_core.doctor`.
#include <torch/library.h>
#include <torch/version.h>

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

c10::Dict<std::string, std::string> build_info() {
  c10::Dict<std::string, std::string> info;
  info.insert("torch", TORCH_VERSION);
  info.insert("compiler", kCompiler);
#ifdef SSM_CUDA_ARCHITECTURES
  info.insert("cuda", std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10));
  info.insert("architectures", SSM_CUDA_ARCHITECTURES);
#endif
  return info;
}

}  // namespace

// A namespace of its own, since these are no operators on tensors.
TORCH_LIBRARY_FRAGMENT(ssm_build, m) {
  m.def("info() -> Dict(str, str)", &build_info);
}

}  // namespace ssm
