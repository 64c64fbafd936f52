/// \file
/// \brief Division by a number that the host knows.
#pragma once

#include <attn/tier.hpp>

#include <cstdint>

namespace attn::gpu {

/// \brief Divides whole numbers below 2^31 by one that the host knows: by a product. Where a block
///        has little other work, divisions would be a part of it that can be seen.
///
/// \par Source
/// Granlund and Montgomery 1994, "Division by invariant integers using multiplication".
class Divisor {
  public:
    explicit Divisor(Index divisor = 1) : divisor_(static_cast<unsigned>(divisor)) {
        while ((std::uint64_t{1} << bits_) < divisor_) ++bits_;
        if (divisor_ > 1)
            factor_ = static_cast<unsigned>(((std::uint64_t{1} << (31 + bits_)) + divisor_ - 1) /
                                            divisor_);
    }
    __device__ unsigned operator()(Index n) const {
        const auto number = static_cast<unsigned>(n);
        return divisor_ <= 1 ? number : __umulhi(number, factor_) >> (bits_ - 1);
    }
    /// What is left of n, whose quotient is known.
    __device__ unsigned rest(Index n, unsigned quotient) const {
        return static_cast<unsigned>(n) - quotient * divisor_;
    }

  private:
    unsigned divisor_, factor_ = 0;
    int bits_ = 0;  // 2^bits >= divisor
};

}  // namespace attn::gpu
