// Every operator's schema. Kernels register themselves in cpu/ and cuda/; fake, autograd and autocast rules are in Python.
#include <Python.h>
#include <torch/library.h>

// Importing the library as a Python module is enough to load it; the operators live in torch.ops.
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}
