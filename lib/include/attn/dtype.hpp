/// \file
/// \brief Element types: the four floating-point types, bool, and the two 16-bit formats as plain
///        structs that host and device share.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define ATTN_HD __host__ __device__
#else
#define ATTN_HD
#endif

namespace attn {

/// \brief Element type of a tensor.
enum class DType : std::uint8_t { float64, float32, float16, bfloat16, boolean };

/// \brief Bytes of one element. A `boolean` is one byte: 0 is false, anything else is true.
constexpr std::size_t size_of(DType dtype) {
    switch (dtype) {
        case DType::float64:
            return 8;
        case DType::float32:
            return 4;
        case DType::float16:
        case DType::bfloat16:
            return 2;
        case DType::boolean:
            return 1;
    }
    return 0;
}

/// \brief Name as numpy and PyTorch write it: "float64", "float32", "float16", "bfloat16", "bool".
constexpr const char* name_of(DType dtype) {
    switch (dtype) {
        case DType::float64:
            return "float64";
        case DType::float32:
            return "float32";
        case DType::float16:
            return "float16";
        case DType::bfloat16:
            return "bfloat16";
        case DType::boolean:
            return "bool";
    }
    return "?";
}

/// \brief IEEE 754 binary16: 1 sign, 5 exponent and 10 fraction bits; largest finite value 65504.
struct float16 {
    std::uint16_t bits = 0;  ///< as stored

    float16() = default;
    /// \brief Rounds to nearest, ties to even; overflow gives infinity; NaN stays NaN.
    ATTN_HD constexpr explicit float16(float value) : bits(round(value)) {}
    /// \brief Exact.
    ATTN_HD constexpr operator float() const { return widen(bits); }

  private:
    static ATTN_HD constexpr std::uint16_t round(float value) {
        const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
        const std::uint32_t sign = (word >> 16) & 0x8000u;
        const std::uint32_t magnitude = word & 0x7fffffffu;
        if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);  // NaN
        if (magnitude >= 0x477ff000u)
            return static_cast<std::uint16_t>(sign | 0x7c00u);  // >= 65520
        if (magnitude < 0x38800000u) {  // below 2^-14: subnormal, a multiple of 2^-24
            // Adding 0.5 puts the unit in the last place at 2^-24, so the addition does the
            // rounding.
            const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
            return static_cast<std::uint16_t>(
                sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
        }
        // 13 fraction bits go; the exponent bias falls from 127 to 15.
        const std::uint32_t odd = (magnitude >> 13) & 1u;
        return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
    }
    static ATTN_HD constexpr float widen(std::uint16_t half) {
        const std::uint32_t sign = (half & 0x8000u) << 16;
        const std::uint32_t magnitude = half & 0x7fffu;
        if (magnitude >= 0x7c00u)  // infinity and NaN
            return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
        if (magnitude < 0x400u) {  // subnormal: magnitude * 2^-24, exact in float
            const float value = static_cast<float>(magnitude) * 0x1p-24f;
            return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
        }
        return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
    }
};

/// \brief bfloat16: the upper half of a float32. 8 exponent and 7 fraction bits.
struct bfloat16 {
    std::uint16_t bits = 0;  ///< as stored

    bfloat16() = default;
    /// \brief Rounds to nearest, ties to even; NaN stays NaN.
    ATTN_HD constexpr explicit bfloat16(float value) : bits(round(value)) {}
    /// \brief Exact.
    ATTN_HD constexpr operator float() const {
        return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
    }

  private:
    static ATTN_HD constexpr std::uint16_t round(float value) {
        const std::uint32_t word = std::bit_cast<std::uint32_t>(value);
        if ((word & 0x7fffffffu) > 0x7f800000u)
            return static_cast<std::uint16_t>((word >> 16) | 0x40u);  // quiet NaN, sign kept
        return static_cast<std::uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
    }
};

/// \brief The `DType` of a C++ element type.
template <class T>
inline constexpr DType dtype_of = [] { static_assert(sizeof(T) == 0, "not an element type"); }();
/// \cond
template <>
inline constexpr DType dtype_of<bool> = DType::boolean;
template <>
inline constexpr DType dtype_of<double> = DType::float64;
template <>
inline constexpr DType dtype_of<float> = DType::float32;
template <>
inline constexpr DType dtype_of<float16> = DType::float16;
template <>
inline constexpr DType dtype_of<bfloat16> = DType::bfloat16;
/// \endcond

/// \brief The type a tier computes in: double for float64, float for everything narrower.
template <class T>
struct ComputeType {
    using type = float;  ///< of every type but double
};
/// \cond
template <>
struct ComputeType<double> {
    using type = double;
};
/// \endcond
/// \brief Short for `ComputeType<T>::type`.
template <class T>
using Compute = typename ComputeType<T>::type;

/// \brief Calls `f(T{})` with the C++ type that `dtype` names; `boolean` is not a value type and
///        must have been refused before.
template <class F>
decltype(auto) visit_float(DType dtype, F&& f) {
    switch (dtype) {
        case DType::float64:
            return f(double{});
        case DType::float16:
            return f(float16{});
        case DType::bfloat16:
            return f(bfloat16{});
        default:
            return f(float{});
    }
}

}  // namespace attn
