/// \file
/// \brief libFuzzer: any bytes as a .npy file are read or refused with an Error, never worse; what
///        was read is written and reads back the same.
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "npy.hpp"

namespace {

void require(bool condition) {
    if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace attn;
    const MemorySource source("fuzz.npy", std::as_bytes(std::span(data, size)));
    Tensor tensor;
    try {
        tensor = read_npy(source);
    } catch (const Error& error) {
        require(error.code() == ErrorCode::bad_file);
        return 0;
    }
    require(tensor.bytes() <= size);

    static const std::string path = "/tmp/attn_fuzz_npy_" + std::to_string(::getpid()) + ".npy";
    write_npy(path, tensor);
    const Tensor again = read_npy(path);
    ::unlink(path.c_str());
    require(again.dtype() == tensor.dtype() && again.rank() == tensor.rank());
    require(std::memcmp(again.shape().data(), tensor.shape().data(), tensor.shape().size_bytes()) ==
            0);
    require(tensor.bytes() == 0 || std::memcmp(again.data(), tensor.data(), tensor.bytes()) == 0);
    return 0;
}
