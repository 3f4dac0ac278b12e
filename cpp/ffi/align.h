// The custom calls of best paths (core/best_path.h): lattice_align and lattice_trace, on padded
// arcs, and the same with _compact behind the name, on arcs packed one sequence after another.
//
// A Backend has LatticeAlign<Real> and LatticeTrace<Real>. AlignScratch checks nothing: it names
// the scratch buffers that the backend's module appends to the binding of lattice_align, with the
// count that each must hold.
#ifndef JAX_RNNT_FFI_ALIGN_H_
#define JAX_RNNT_FFI_ALIGN_H_

#include <cstdint>
#include <utility>

#include "core/best_path.h"
#include "core/lattice_layout.h"
#include "ffi/buffers.h"
#include "ffi/lattice_buffers.h"
#include "xla/ffi/api/ffi.h"

namespace jax_rnnt::ffi {

// Behind the layout that Padded or Compact of ffi/lattice.h makes; in compact calls its attribute
// max_labels is U - 1.
template <typename Backend>
struct LatticeAlign {
  template <typename... Scratch>
  static Error Run(typename Backend::Context context, const LatticeLayout& layout,
                   AnyBuffer blank_log_probs, AnyBuffer label_log_probs, AnyBuffer before,
                   AnyResult after, AnyResult words, Scratch... scratch) {
    return DispatchReals("blank_log_probs", blank_log_probs, [&](auto real) -> Error {
      using Real = typename decltype(real)::Type;
      constexpr DataType kReal = kDataType<Real>;
      const int64_t cells = blank_log_probs.element_count();
      const int64_t scores = Times({2, layout.sequences, layout.max_columns});
      const int64_t groups = layout.compact() && layout.sequences_per_group > 0
                                 ? layout.sequences / layout.sequences_per_group
                                 : layout.sequences;
      JAX_RNNT_RETURN_IF_ERROR(Check("label_log_probs", label_log_probs, kReal, cells));
      JAX_RNNT_RETURN_IF_ERROR(Check("before", before, kBits<Real>, scores));
      JAX_RNNT_RETURN_IF_ERROR(Check("after", *after, kBits<Real>, scores));
      if (layout.sequences == 0) return Error::Success();
      JAX_RNNT_RETURN_IF_ERROR(
          Check("words", *words, DataType::S32, Times({groups, CountPathWords(layout)})));
      JAX_RNNT_RETURN_IF_ERROR(CheckScratch(kReal, Backend::AlignScratch(layout, *scratch...)));
      return Backend::template LatticeAlign<Real>(
          context, layout, Data<const Real>(blank_log_probs), Data<const Real>(label_log_probs),
          Data<const PathScore<Real>>(before), Data<PathScore<Real>>(*after), Data<int32_t>(*words),
          Data<double>(*scratch)...);
    });
  }
};

template <typename Binding>
auto BindLatticeAlign(Binding&& binding) {
  return std::move(binding)
      .template Arg<AnyBuffer>()   // before (..., U, 2), a PathScore for each column
      .template Ret<AnyBuffer>()   // after, likewise; compact, both are (..., N, U, 2)
      .template Ret<AnyBuffer>();  // words, as many as CountPathWords says for each group
}

// offsets is null in the padded form.
template <typename Backend>
Error LatticeTrace(typename Backend::Context context, AnyBuffer scores, AnyBuffer words,
                   const Int32Buffer& frames_lengths, const Int32Buffer& labels_lengths,
                   const Int32Buffer* offsets, AnyResult log_probs, AnyResult label_frames) {
  return DispatchReals("scores", scores, [&](auto real) -> Error {
    using Real = typename decltype(real)::Type;
    const auto dimensions = scores.dimensions();
    if (dimensions.size() < 2 || dimensions.back() != 2) {
      return WrongBuffer("scores", "(..., U, 2)");
    }
    PathWordsLayout layout;
    layout.sequences = frames_lengths.element_count();
    layout.max_columns = dimensions[dimensions.size() - 2];
    layout.frames_lengths = frames_lengths.typed_data();
    layout.labels_lengths = labels_lengths.typed_data();
    layout.offsets = nullptr;
    layout.sequences_per_group = 1;
    if (layout.max_columns > kMaxColumns || layout.max_columns < 1) {
      return WrongBuffer("scores", "of fewer than 2^28 columns");
    }
    const int64_t columns = Times({layout.sequences, layout.max_columns});
    JAX_RNNT_RETURN_IF_ERROR(Check("scores", scores, kDataType<Real>, Times({2, columns})));
    JAX_RNNT_RETURN_IF_ERROR(
        Check("labels_lengths", labels_lengths, DataType::S32, layout.sequences));
    JAX_RNNT_RETURN_IF_ERROR(Check("log_probs", *log_probs, kDataType<Real>, layout.sequences));
    JAX_RNNT_RETURN_IF_ERROR(Check("label_frames", *label_frames, DataType::S32, columns));
    if (offsets != nullptr) {
      JAX_RNNT_RETURN_IF_ERROR(Check("offsets", *offsets, DataType::S32, layout.sequences));
    }
    if (layout.sequences == 0) return Error::Success();
    if (offsets != nullptr) {
      const auto batch = frames_lengths.dimensions();
      if (batch.size() < 1) return WrongBuffer("frames_lengths", "(..., N)");
      layout.offsets = offsets->typed_data();
      layout.sequences_per_group = batch.back();
    }
    const int64_t groups = layout.sequences / layout.sequences_per_group;
    if (words.dimensions().size() < 1 || Leading(words.dimensions(), 1) != groups) {
      return WrongBuffer("words", "(..., W)");
    }
    layout.words_per_group = words.dimensions().back();
    JAX_RNNT_RETURN_IF_ERROR(
        Check("words", words, DataType::S32, Times({groups, layout.words_per_group})));
    return Backend::template LatticeTrace<Real>(
        context, layout, Data<const PathScore<Real>>(scores), Data<const int32_t>(words),
        Data<Real>(*log_probs), Data<int32_t>(*label_frames));
  });
}

template <typename Backend>
Error PaddedTrace(typename Backend::Context context, AnyBuffer scores, AnyBuffer words,
                  Int32Buffer frames_lengths, Int32Buffer labels_lengths, AnyResult log_probs,
                  AnyResult label_frames) {
  return LatticeTrace<Backend>(context, scores, words, frames_lengths, labels_lengths, nullptr,
                               log_probs, label_frames);
}

template <typename Context>
auto BindPaddedTrace() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()    // scores (..., U, 2), those after the last frame
      .template Arg<AnyBuffer>()    // words, as many for each of (...)
      .template Arg<Int32Buffer>()  // frames_lengths (...)
      .template Arg<Int32Buffer>()  // labels_lengths (...)
      .template Ret<AnyBuffer>()    // log_probs (...)
      .template Ret<AnyBuffer>();   // label_frames (..., U)
}

template <typename Backend>
Error CompactTrace(typename Backend::Context context, AnyBuffer scores, AnyBuffer words,
                   Int32Buffer frames_lengths, Int32Buffer labels_lengths, Int32Buffer offsets,
                   AnyResult log_probs, AnyResult label_frames) {
  return LatticeTrace<Backend>(context, scores, words, frames_lengths, labels_lengths, &offsets,
                               log_probs, label_frames);
}

template <typename Context>
auto BindCompactTrace() {
  return xla::ffi::Ffi::Bind()
      .Ctx<Context>()
      .template Arg<AnyBuffer>()    // scores (..., N, U, 2)
      .template Arg<AnyBuffer>()    // words, as many for each of (...)
      .template Arg<Int32Buffer>()  // frames_lengths (..., N)
      .template Arg<Int32Buffer>()  // labels_lengths (..., N)
      .template Arg<Int32Buffer>()  // offsets (..., N)
      .template Ret<AnyBuffer>()    // log_probs (..., N)
      .template Ret<AnyBuffer>();   // label_frames (..., N, U)
}

}  // namespace jax_rnnt::ffi

#endif  // JAX_RNNT_FFI_ALIGN_H_
