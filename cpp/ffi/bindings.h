// The buffers and attributes of each custom call, in order, for any Context (what XLA hands to a
// handler). A backend appends its own scratch results.
#ifndef JAX_RNNT_FFI_BINDINGS_H_
#define JAX_RNNT_FFI_BINDINGS_H_

#include <utility>

#include "ffi/handlers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

template <typename Context>
auto BindPickForward() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()    // logits (..., V)
      .template Arg<Int32Buffer>()  // labels (...)
      .template Ret<AnyBuffer>()    // blank_log_probs (...)
      .template Ret<AnyBuffer>()    // label_log_probs (...)
      .template Ret<AnyBuffer>()    // maxima (...)
      .template Ret<AnyBuffer>()    // log_sums (...)
      .template Attr<int64_t>("blank");
}

template <typename Context>
auto BindPickBackward() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()    // logits (..., V)
      .template Arg<Int32Buffer>()  // labels (...)
      .template Arg<AnyBuffer>()    // maxima (...)
      .template Arg<AnyBuffer>()    // log_sums (...)
      .template Arg<AnyBuffer>()    // blank_cotangents (...)
      .template Arg<AnyBuffer>()    // label_cotangents (...)
      .template Ret<AnyBuffer>()    // logits_cotangents (..., V)
      .template Attr<int64_t>("blank");
}

template <typename Context>
auto BindPadded() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()     // blank_log_probs (..., T, U)
      .template Arg<AnyBuffer>()     // label_log_probs (..., T, U)
      .template Arg<Int32Buffer>()   // frames_lengths (...)
      .template Arg<Int32Buffer>();  // labels_lengths (...)
}

template <typename Context>
auto BindCompact() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Attr<int64_t>("max_labels")
      .template Arg<AnyBuffer>()     // blank_log_probs (..., S)
      .template Arg<AnyBuffer>()     // label_log_probs (..., S)
      .template Arg<Int32Buffer>()   // frames_lengths (..., N)
      .template Arg<Int32Buffer>()   // labels_lengths (..., N)
      .template Arg<Int32Buffer>();  // offsets (..., N)
}

// The calls below follow BindPadded or BindCompact. A sequence is one of (...) or of (..., N), a
// cell one of (..., T, U) or of (..., S).

template <typename Binding>
auto BindLatticeCost(Binding&& binding) {
  return std::move(binding).template Ret<AnyBuffer>();  // costs, one a sequence
}

template <typename Binding>
auto BindLatticeForward(Binding&& binding) {
  return std::move(binding)
      .template Ret<AnyBuffer>()   // costs, one a sequence
      .template Ret<AnyBuffer>()   // values, a pair for each cell
      .template Ret<AnyBuffer>();  // totals, a pair for each sequence
}

template <typename Binding>
auto BindLatticeBackward(Binding&& binding) {
  return std::move(binding)
      .template Arg<AnyBuffer>()   // values, as lattice_forward left them
      .template Arg<AnyBuffer>()   // totals
      .template Arg<AnyBuffer>()   // cotangents, one a sequence
      .template Ret<AnyBuffer>()   // blank_cotangents, one a cell
      .template Ret<AnyBuffer>();  // label_cotangents, one a cell
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_BINDINGS_H_
