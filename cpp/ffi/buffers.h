// The buffers of a handler: their checks, their element types, their pointers.
//
// This room (cpp/ffi) is the only one that knows XLA. A handler is a template over the backend; it
// checks its buffers and calls one function of the backend, and nothing else: it never
// synchronises, allocates or copies to the host, and it never fails because of a value. All leading
// dimensions of a buffer are batch, and nothing depends on the values of an array: a shard of an
// uneven batch arrives with undefined rows.
//
//   buffers.h                      checks and element types
//   rows.h, entries.h, lattice.h,  for each custom call its handler, then its binding, which names
//   arcs.h, joint.h, blocks.h,     every buffer and attribute in order
//   entries_biased.h
//   lattice_buffers.h              what the calls of lattice.h and arcs.h check
//   arcs_operands.h                what the calls of arcs.h check beside that
//   joint_buffers.h                what the calls of joint.h check
//   cpu_module.cc, cuda_module.cc  the backends, and the name of each custom call
//   module.h                       what both modules tell Python
//
// A Backend names what differs between devices:
//   Context              what XLA hands to a handler (a thread pool, a stream)
//   BFloat16, Float16    its 16-bit types
//   and the functions that those headers say they call, returning Error.
#ifndef JAX_RNNT_FFI_BUFFERS_H_
#define JAX_RNNT_FFI_BUFFERS_H_

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

using xla::ffi::AnyBuffer;
using xla::ffi::DataType;
using xla::ffi::Error;
using xla::ffi::ErrorCode;
using Int32Buffer = xla::ffi::Buffer<xla::ffi::S32>;
using AnyResult = xla::ffi::Result<AnyBuffer>;

inline Error WrongBuffer(const char* name, const std::string& expected) {
  return Error(ErrorCode::kInvalidArgument,
               "jax_rnnt: buffer " + std::string(name) + " must be " + expected + ".");
}

// The product of sizes; zero if any size is. Where the product exceeds 64 bits, as it may for the
// sizes of an array without elements, the result is a count that no array has.
inline int64_t Times(std::initializer_list<int64_t> sizes) {
  int64_t product = 1;
  for (int64_t size : sizes) {
    if (size == 0) return 0;
    if (__builtin_mul_overflow(product, size, &product)) {
      product = std::numeric_limits<int64_t>::max();
    }
  }
  return product;
}

// The product of all dimensions but the last `own`, one if there are no others.
template <typename Dimensions>
int64_t Leading(const Dimensions& dimensions, size_t own) {
  int64_t product = 1;
  for (size_t i = 0; i + own < dimensions.size(); ++i) product = Times({product, dimensions[i]});
  return product;
}

// An error unless the buffer has this type and number of elements.
template <typename Buffer>
Error Check(const char* name, Buffer& buffer, DataType dtype, int64_t count) {
  if (buffer.element_type() != dtype) return WrongBuffer(name, "of another type");
  if (static_cast<int64_t>(buffer.element_count()) != count) {
    return WrongBuffer(name, "of " + std::to_string(count) + " elements, not " +
                                 std::to_string(buffer.element_count()));
  }
  return Error::Success();
}

#define JAX_RNNT_RETURN_IF_ERROR(expression)                       \
  do {                                                             \
    if (Error error = (expression); error.failure()) return error; \
  } while (false)

template <typename T>
struct TypeTag {
  using Type = T;
};

// Calls body(TypeTag<Real>()) for a buffer of Real, float or double.
template <typename Body>
Error DispatchReals(const char* name, const AnyBuffer& buffer, const Body& body) {
  switch (buffer.element_type()) {
    case DataType::F32:
      return body(TypeTag<float>());
    case DataType::F64:
      return body(TypeTag<double>());
    default:
      return WrongBuffer(name, "float32 or float64");
  }
}

template <typename Real>
constexpr DataType kDataType = sizeof(Real) == sizeof(float) ? DataType::F32 : DataType::F64;

// The dtype of the pairs of Real that one call leaves for another.
template <typename Real>
constexpr DataType kBits = sizeof(Real) == sizeof(float) ? DataType::U32 : DataType::U64;

// The pointer of a buffer whose type has been checked.
template <typename T, typename Buffer>
T* Data(Buffer& buffer) {
  return reinterpret_cast<T*>(buffer.untyped_data());
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_BUFFERS_H_
