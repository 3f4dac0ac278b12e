// What both native modules tell Python: their custom calls and what they were compiled against.
#ifndef JAX_RNNT_FFI_MODULE_H_
#define JAX_RNNT_FFI_MODULE_H_

#include <nanobind/nanobind.h>

#include "xla/ffi/api/c_api.h"

namespace jax_rnnt::ffi {

namespace nb = nanobind;

inline nb::capsule Capsule(XLA_FFI_Error* (*handler)(XLA_FFI_CallFrame*)) {
  return nb::capsule(reinterpret_cast<void*>(handler));
}

inline void DefineVersions(nb::module_& module) {
  module.def("ffi_api_version",
             [] { return nb::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR); });
  module.def("jaxlib_version", [] { return JAX_RNNT_JAXLIB_VERSION; });
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_MODULE_H_
