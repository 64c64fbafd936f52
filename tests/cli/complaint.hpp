/// \file
/// \brief What a reader or writer of files complains about.
#pragma once

#include <attn/attention.hpp>

#include <doctest/doctest.h>

#include <string>

/// \brief The sentence of the `Error` that `action` throws; "" if it throws none.
template <class Action>
std::string complaint(Action&& action) {
    try {
        action();
    } catch (const attn::Error& error) {
        CHECK(error.code() == attn::ErrorCode::bad_file);
        return error.what();
    }
    return "";
}
