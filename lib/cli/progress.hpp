/// \file
/// \brief A progress bar on standard error, for people who wait.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace attn::cli {

/// \brief Shows how far a long work is. Nothing appears in the first second, nor when standard
///        error is no terminal; the bar is wiped when the object goes.
class Progress {
  public:
    /// \param steps how many calls of `step` there will be
    explicit Progress(int steps);
    ~Progress();
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    /// \brief A new step begins; the one before it is done.
    void step(const std::string& what);

  private:
    void watch();

    const int steps_;
    int begun_ = 0;
    std::string what_;
    const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    bool stop_ = false;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::thread watcher_;  ///< not started without a terminal
};

}  // namespace attn::cli
