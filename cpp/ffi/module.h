// The contents of both native modules: their custom calls, and the versions that they were compiled
// against.
#ifndef JAX_RNNT_FFI_MODULE_H_
#define JAX_RNNT_FFI_MODULE_H_

#include <nanobind/nanobind.h>

#include <utility>
#include <vector>

#include "xla/ffi/api/c_api.h"

namespace jax_rnnt::ffi {

using Handler = XLA_FFI_Error* (*)(XLA_FFI_CallFrame*);

// The custom calls of a module: the name of a kernel and its handler.
using Handlers = std::vector<std::pair<const char*, Handler>>;

inline void DefineModule(nanobind::module_& module, Handlers handlers) {
  module.def("ffi_api_version",
             [] { return nanobind::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR); });
  module.def("jaxlib_version", [] { return JAX_RNNT_JAXLIB_VERSION; });
  module.def("registrations", [handlers] {
    nanobind::dict targets;
    for (const auto& [name, handler] : handlers) {
      targets[name] = nanobind::capsule(reinterpret_cast<void*>(handler));
    }
    return targets;
  });
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_MODULE_H_
