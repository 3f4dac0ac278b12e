// A parallel loop on a thread pool of somebody else, called from inside one of the pool's tasks.
#ifndef JAX_RNNT_CPU_PARALLEL_FOR_H_
#define JAX_RNNT_CPU_PARALLEL_FOR_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

namespace jax_rnnt::cpu {

// Runs body(0), ..., body(count - 1), each once, in any order, and returns when all have finished.
using ParallelFor =
    std::function<void(int64_t count, const std::function<void(int64_t index)>& body)>;

// ParallelFor on a pool with Schedule(task) and num_threads().
//
// The caller draws indices from the same counter as its helpers and waits only for indices that
// somebody has drawn. It never waits for a helper that has not started: with every thread of the
// pool inside such a call at once, nobody would be left to start one.
template <typename Pool>
void ParallelForOnPool(Pool& pool, int64_t count, const std::function<void(int64_t)>& body) {
  struct State {
    State(int64_t count, std::function<void(int64_t)> body) : count(count), body(std::move(body)) {}
    const int64_t count;
    const std::function<void(int64_t)> body;
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> finished{0};
    std::mutex mutex;
    std::condition_variable all_finished;
  };
  const int64_t helpers = std::min<int64_t>(count, pool.num_threads()) - 1;
  if (helpers <= 0) {
    for (int64_t index = 0; index < count; ++index) body(index);
    return;
  }
  // Shared, because a helper that starts late finds nothing to draw but outlives this call.
  auto state = std::make_shared<State>(count, body);
  auto work = [](State& s) {
    int64_t mine = 0;
    for (int64_t index; (index = s.next.fetch_add(1)) < s.count; ++mine) s.body(index);
    if (mine > 0 && s.finished.fetch_add(mine) + mine == s.count) {
      std::lock_guard<std::mutex> lock(s.mutex);
      s.all_finished.notify_all();
    }
  };
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([state, work] { work(*state); });
  work(*state);
  std::unique_lock<std::mutex> lock(state->mutex);
  state->all_finished.wait(lock, [&] { return state->finished.load() == state->count; });
}

}  // namespace jax_rnnt::cpu

#endif  // JAX_RNNT_CPU_PARALLEL_FOR_H_
