/// \file
/// \brief The test program. `--tier=online` is short for the environment variable ATTN_TIER=online.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>

int main(int argc, char** argv) {
    for (int i = 1; i < argc; ++i)
        if (std::strncmp(argv[i], "--tier=", 7) == 0) setenv("ATTN_TIER", argv[i] + 7, 1);
    doctest::Context context(argc, argv);
    return context.run();
}
