/// \file
/// \brief libFuzzer: any bytes as a .safetensors file are read or refused with an Error, never
///        worse; accepted files have exactly as much data as their tensors.
#include <cstdlib>
#include <memory>

#include "safetensors.hpp"

namespace {

void require(bool condition) {
    if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace attn;
    try {
        const SafetensorsFile file(std::make_unique<MemorySource>(
            "fuzz.safetensors", std::as_bytes(std::span(data, size))));
        std::size_t bytes = 0;
        for (const std::string& name : file.names()) {
            require(file.has(name));
            try {
                bytes += file.read(name).bytes();
            } catch (const Error& error) {  // a dtype that is not taken, a bool that is neither
                require(error.code() == ErrorCode::bad_file);
            }
        }
        require(bytes <= size);
    } catch (const Error& error) {
        require(error.code() == ErrorCode::bad_file);
    }
    return 0;
}
