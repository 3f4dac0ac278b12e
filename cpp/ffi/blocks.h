// The custom call add_blocks, which CUDA alone has: parts of sums added to their blocks in order.
//
// A Backend has AddBlocks.
#ifndef JAX_RNNT_FFI_BLOCKS_H_
#define JAX_RNNT_FFI_BLOCKS_H_

#include <cstdint>

#include "ffi/buffers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

template <typename Backend>
Error AddBlocks(typename Backend::Context context, AnyBuffer sums, Int32Buffer blocks,
                AnyBuffer parts, AnyResult added) {
  if (sums.dimensions().size() < 2) return WrongBuffer("sums", "(..., B, L)");
  const auto own = sums.dimensions().last(2);
  const int64_t B = own[0], L = own[1], P = Leading(sums.dimensions(), 2);
  const int64_t R = P == 0 ? 0 : static_cast<int64_t>(blocks.element_count()) / P;
  JAX_RNNT_RETURN_IF_ERROR(Check("blocks", blocks, DataType::S32, Times({P, R})));
  return DispatchReals("sums", sums, [&](auto real) -> Error {
    using Real = typename decltype(real)::Type;
    JAX_RNNT_RETURN_IF_ERROR(Check("sums", sums, kDataType<Real>, Times({P, B, L})));
    JAX_RNNT_RETURN_IF_ERROR(Check("parts", parts, kDataType<Real>, Times({P, R, L})));
    JAX_RNNT_RETURN_IF_ERROR(Check("added", *added, kDataType<Real>, Times({P, B, L})));
    for (int64_t p = 0; p < P; ++p) {
      JAX_RNNT_RETURN_IF_ERROR(Backend::AddBlocks(
          context, B, L, R, Data<const Real>(sums) + p * B * L, blocks.typed_data() + p * R,
          Data<const Real>(parts) + p * R * L, Data<Real>(*added) + p * B * L));
    }
    return Error::Success();
  });
}

template <typename Context>
auto BindAddBlocks() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()    // sums (P, B, L); P stands for all leading dimensions
      .template Arg<Int32Buffer>()  // blocks (P, R)
      .template Arg<AnyBuffer>()    // parts (P, R, L)
      .template Ret<AnyBuffer>();   // added (P, B, L), which may be sums
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_BLOCKS_H_
