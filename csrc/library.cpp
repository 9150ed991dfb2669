// The entry of the library as a Python module. Importing it loads the library, whose operators are in torch.ops: each
// operator's folder registers its own schema and kernels. Fake, autograd and autocast rules are in Python.
#include <Python.h>

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}
