/// \file
/// \brief The one exception type: a code and one sentence that holds the offending values.
#pragma once

#include <stdexcept>
#include <string>

namespace attn {

/// \brief What kind of mistake an `Error` reports.
enum class ErrorCode {
    bad_shape,     ///< sizes, ranks or strides that do not fit together
    bad_dtype,     ///< an element type that is not taken here
    bad_option,    ///< an option outside its domain, an unknown tier
    bad_device,    ///< tensors on different devices
    bad_file,      ///< a file that is not what it says it is
    unsupported,   ///< well-formed, but beyond the limits of the tier that was asked for
    unavailable,   ///< the tier cannot run on this machine
    no_memory,     ///< an allocation failed
    device_error,  ///< the GPU runtime reported an error
};

/// \brief "bad_shape", "unsupported", ...
const char* name_of(ErrorCode code);

/// \brief One sentence that holds the offending values. Thrown before anything is written.
class Error : public std::runtime_error {
  public:
    /// \param code     what kind of mistake
    /// \param message  one sentence that holds the values
    Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
    /// \brief What kind of mistake.
    ErrorCode code() const noexcept { return code_; }

  private:
    ErrorCode code_;
};

}  // namespace attn
