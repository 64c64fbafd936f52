#include "progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace attn::cli {

Progress::Progress(int steps) : steps_(std::max(steps, 1)) {
    if (::isatty(STDERR_FILENO)) watcher_ = std::thread([this] { watch(); });
}

Progress::~Progress() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    if (watcher_.joinable()) watcher_.join();
}

void Progress::step(const std::string& what) {
    const std::lock_guard lock(mutex_);
    ++begun_;
    what_ = what;
}

void Progress::watch() {
    using namespace std::chrono_literals;
    constexpr int width = 30;
    bool shown = false;
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, shown ? 250ms : 1000ms, [this] { return stop_; })) {
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
        const int done = std::max(begun_ - 1, 0) * width / steps_;
        fmt::print(stderr, "\r\x1b[K[{:=<{}}{: <{}}] {}/{}  {:.0f} s  {:.40}", "", done, "",
                   width - done, begun_, steps_, elapsed.count(), what_);
        std::fflush(stderr);
        shown = true;
    }
    if (shown) {
        fmt::print(stderr, "\r\x1b[K");
        std::fflush(stderr);
    }
}

}  // namespace attn::cli
