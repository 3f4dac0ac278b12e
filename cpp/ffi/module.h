// What both native modules tell Python: their custom calls and what they were compiled against.
#ifndef JAX_RNNT_FFI_MODULE_H_
#define JAX_RNNT_FFI_MODULE_H_

#include <nanobind/nanobind.h>

#include "xla/ffi/api/c_api.h"

namespace jax_rnnt::ffi {

using Handler = XLA_FFI_Error* (*)(XLA_FFI_CallFrame*);

struct Handlers {
  Handler pick_forward;
  Handler pick_backward;
  Handler lattice_cost;
  Handler lattice_forward;
  Handler lattice_backward;
  Handler lattice_cost_compact;
  Handler lattice_forward_compact;
  Handler lattice_backward_compact;
};

inline void DefineModule(nanobind::module_& module, Handlers handlers) {
  module.def("ffi_api_version",
             [] { return nanobind::make_tuple(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR); });
  module.def("jaxlib_version", [] { return JAX_RNNT_JAXLIB_VERSION; });
  module.def("registrations", [handlers] {
    auto capsule = [](Handler handler) {
      return nanobind::capsule(reinterpret_cast<void*>(handler));
    };
    nanobind::dict targets;
    targets["pick_forward"] = capsule(handlers.pick_forward);
    targets["pick_backward"] = capsule(handlers.pick_backward);
    targets["lattice_cost"] = capsule(handlers.lattice_cost);
    targets["lattice_forward"] = capsule(handlers.lattice_forward);
    targets["lattice_backward"] = capsule(handlers.lattice_backward);
    targets["lattice_cost_compact"] = capsule(handlers.lattice_cost_compact);
    targets["lattice_forward_compact"] = capsule(handlers.lattice_forward_compact);
    targets["lattice_backward_compact"] = capsule(handlers.lattice_backward_compact);
    return targets;
  });
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_MODULE_H_
