"""Source fixes for Horovod 0.28.1, applied to an unpacked source tree.

Usage: python horovod_fixes.py SOURCE_TREE

The newest Horovod release neither compiles against current PyTorch nor lets a
worker outlive a peer that disappears at the wrong moment. Each fix below is a
handful of exact replacements; a replacement that does not match exactly once
stops the build, so a changed source can never be half fixed.

1. ``cxx17``: PyTorch's headers need C++17, two CMake files ask for C++14.
2. ``cuda``: a build without GPU operations asked for CUDA's libraries whenever PyTorch is
   a CUDA build (PyPI's is) and some ``nvcc`` is about.
3. ``interface``: process sets forget the configured gloo interface and bind to
   whatever the host name resolves to.
4. ``init``: a peer lost during ``hvd.init()`` raised in Horovod's background
   thread, where nobody can catch it: the process died with its state. Now
   ``hvd.init()`` fails in Python and may be called again. The same holds for an
   exception in gloo's device thread (a connection reset while it is accepted).
5. ``waiters``: when a gloo pair fails, operations that are half way through are
   not told, and their waiters sleep until the gloo timeout.
6. ``columns``: every rank asked the rendezvous server for every other rank's addresses
   of all ranks, twice each. With HOROVOD_GLOO_RENDEZVOUS_COLUMNS=1 a rank sends its
   addresses in one POST, whose answer is what the others made for it; see
   trainer.agent.rendezvous. Without the variable everything is as it was.
7. ``meshes``: every rank connected to all others for the global process set again, and
   once more for the cross (or local) ranks when these are all ranks. With the same
   variable the connections that are there are shared.
8. ``again``: with HOROVOD_FUSION_THRESHOLD or HOROVOD_CYCLE_TIME set, a second
   ``hvd.init()`` in the same process wrote the default of what the first had fixed, and
   taken out of its vector, to a null pointer: every worker died of SIGSEGV.
9. ``idle``: a thousand times a second all ranks exchange which tensors are ready, also while
   none is; what becomes ready waits for the next time. With HOROVOD_IDLE_CYCLE_TIME=MS a tensor
   that is enqueued (or a shutdown) begins that exchange at once, and without one it takes place
   every MS milliseconds. Without the variable everything is as it was.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fix:
    """One exact replacement in one file of the source tree."""

    name: str
    file: str
    old: str
    new: str


FIXES = (
    Fix(
        "cxx17",
        "CMakeLists.txt",
        "set(CMAKE_CXX_STANDARD 14)",
        "set(CMAKE_CXX_STANDARD 17)",
    ),
    Fix(
        "cxx17",
        "horovod/torch/CMakeLists.txt",
        "set(CMAKE_CXX_STANDARD 14)",
        "set(CMAKE_CXX_STANDARD 17)",
    ),
    Fix(
        "cuda",
        "cmake/Modules/FindPytorch.cmake",
        "import torch; from torch.utils.cpp_extension import CUDA_HOME; print(True if (",
        "import os, torch; from torch.utils.cpp_extension import CUDA_HOME; "
        "print(True if (('HOROVOD_GPU_OPERATIONS' in os.environ) and ",
    ),
    Fix(
        "interface",
        "horovod/common/gloo/gloo_context.cc",
        "  attr device_attr;\n  device_attr.iface = gloo_iface_;\n"
        "  device_attr.ai_family = AF_UNSPEC;\n  auto dev = CreateDevice(device_attr);\n\n"
        "  global_ctx = global_context.ctx;",
        "  gloo_iface_ = global_context.gloo_iface_;\n"
        "  attr device_attr;\n  device_attr.iface = gloo_iface_;\n"
        "  device_attr.ai_family = AF_UNSPEC;\n  auto dev = CreateDevice(device_attr);\n\n"
        "  global_ctx = global_context.ctx;",
    ),
    Fix(
        "init",
        "horovod/common/operations.cc",
        "    global_gloo_context.Initialize(ParseGlooIface());\n  }\n"
        "  if (state.control_operation == LibType::GLOO) {\n"
        "    // Initializes global controller\n"
        "    state.process_set_table.Initialize(global_gloo_context);\n"
        "  }\n",
        "    try {\n"
        "      global_gloo_context.Initialize(ParseGlooIface());\n"
        "      if (state.control_operation == LibType::GLOO) {\n"
        "        // Initializes global controller\n"
        "        state.process_set_table.Initialize(global_gloo_context);\n"
        "      }\n"
        "    } catch (const std::exception& ex) {\n"
        '      LOG(ERROR) << "Gloo could not be initialized: " << ex.what();\n'
        "      state.process_set_table.Finalize(global_gloo_context, SHUT_DOWN_ERROR);\n"
        "      global_gloo_context.Finalize();\n"
        "      state.initialization_failed = true;\n"
        "      return;\n"
        "    }\n"
        "  }\n",
    ),
    Fix(
        "init",
        "horovod/common/operations.cc",
        "    horovod_global.initialization_done = false;\n    horovod_global.background_thread =",
        "    horovod_global.initialization_done = false;\n"
        "    horovod_global.initialization_failed = false;\n"
        "    horovod_global.background_thread =",
    ),
    Fix(
        "init",
        "third_party/gloo/gloo/transport/tcp/pair.cc",
        "  if (state_ == CONNECTED) {\n    handleReadWrite(events);\n    return;\n  }\n\n"
        "  if (state_ == LISTENING) {\n    handleListening();\n    return;\n  }\n\n"
        "  if (state_ == CONNECTING) {\n    handleConnecting();\n    return;\n  }\n",
        "  try {\n"
        "    if (state_ == CONNECTED) {\n      handleReadWrite(events);\n      return;\n    }\n"
        "    if (state_ == LISTENING) {\n      handleListening();\n      return;\n    }\n"
        "    if (state_ == CONNECTING) {\n      handleConnecting();\n      return;\n    }\n"
        "  } catch (const std::exception& ex) {\n"
        "    // The device thread has no caller to tell: the pair fails instead.\n"
        "    if (ex_ == nullptr) {\n      signalException(ex.what());\n    }\n"
        "    return;\n"
        "  }\n",
    ),
    Fix(
        "waiters",
        "third_party/gloo/gloo/transport/tcp/pair.cc",
        "    if (op.buf != nullptr) {\n      op.buf->signalException(ex);\n    }\n  }\n",
        "    if (op.buf != nullptr) {\n      op.buf->signalException(ex);\n    }\n"
        "    NonOwningPtr<UnboundBuffer> sending(op.ubuf);\n"
        "    if (sending) {\n      sending->signalException(ex);\n    }\n"
        "  }\n\n"
        "  // The receive that is half way through is in no queue.\n"
        "  {\n"
        "    NonOwningPtr<UnboundBuffer> receiving(rx_.ubuf);\n"
        "    if (receiving) {\n      receiving->signalException(ex);\n    }\n"
        "  }\n",
    ),
    Fix(
        "columns",
        "horovod/common/gloo/http_store.h",
        "            int rank)\n      : rank_(rank) {\n",
        "            int rank, int columns_of = 0)\n"
        "      : rank_(rank), columns_of_(columns_of) {\n",
    ),
    Fix(
        "columns",
        "horovod/common/gloo/http_store.h",
        "  int rank_;\n};\n",
        "  int rank_;\n"
        "  int columns_of_;  // the ranks in this scope; 0: the server keeps single keys\n"
        "  std::vector<char> column_;  // what each of the others made for this rank\n"
        "};\n",
    ),
    Fix(
        "columns",
        "horovod/common/gloo/http_store.cc",
        " HTTP_DELETE(std::to_string(rank_)); }",
        "\n  if (columns_of_ == 0) {\n    HTTP_DELETE(std::to_string(rank_));\n  }\n}",
    ),
    Fix(
        "columns",
        "horovod/common/gloo/http_store.cc",
        "  HTTP_PUT(key, data);\n}\n",
        "  if (columns_of_ == 0) {\n"
        "    HTTP_PUT(key, data);\n"
        "  } else if (columns_of_ > 1 && key == std::to_string(rank_)) {\n"
        '    http::Request request(url_prefix_ + key + "/" +\n'
        "                          std::to_string(columns_of_));\n"
        "    http::Response response = PerformHTTP(\n"
        '        request, "POST", std::string(data.begin(), data.end()));\n'
        "    column_.assign(response.body.begin(), response.body.end());\n"
        "  }\n"
        "}\n",
    ),
    Fix(
        "columns",
        "horovod/common/gloo/http_store.cc",
        "  std::vector<char> result;\n  HTTP_GET(key, result);\n  return result;\n",
        "  std::vector<char> result;\n"
        "  if (columns_of_ == 0) {\n"
        "    HTTP_GET(key, result);\n"
        '  } else if (key.compare(0, 5, "rank_") != 0) {\n'
        "    // The one address that gloo picks, where it looks for it.\n"
        "    int peer = std::stoi(key);\n"
        "    size_t each = column_.size() / (columns_of_ - 1);\n"
        "    auto address = column_.begin() + each * (peer < rank_ ? peer : peer - 1);\n"
        "    result.resize(column_.size());\n"
        "    std::copy(address, address + each,\n"
        "              result.begin() + each * (rank_ < peer ? rank_ : rank_ - 1));\n"
        "  }\n"
        "  return result;\n",
    ),
    Fix(
        "columns",
        "horovod/common/gloo/http_store.cc",
        "  const auto start = std::chrono::steady_clock::now();\n\n  while (!CheckKeys(keys)) {",
        "  const auto start = std::chrono::steady_clock::now();\n\n"
        "  while (columns_of_ == 0 && !CheckKeys(keys)) {",
    ),
    Fix(
        "columns",
        "horovod/common/gloo/gloo_context.cc",
        "    store.reset(new HTTPStore(server_addr, server_port, prefix, rank));\n",
        "    store.reset(new HTTPStore(server_addr, server_port, prefix, rank,\n"
        "                              ColumnsFromEnv() ? size : 0));\n",
    ),
    Fix(
        "columns",
        "horovod/common/gloo/gloo_context.cc",
        "std::shared_ptr<gloo::Context> Rendezvous(const std::string& prefix,",
        "bool ColumnsFromEnv() {\n"
        '  return GetBoolEnvOrDefault("HOROVOD_GLOO_RENDEZVOUS_COLUMNS", false);\n'
        "}\n\n"
        "std::shared_ptr<gloo::Context> Rendezvous(const std::string& prefix,",
    ),
    Fix(
        "columns",
        "third_party/gloo/gloo/transport/tcp/address.cc",
        "  struct sockaddr_storage ss;\n  socklen_t addrlen = sizeof(ss);\n  int rv;\n\n"
        "  rv = getsockname(",
        "  struct sockaddr_storage ss = {};  // what is left over travels, too\n"
        "  socklen_t addrlen = sizeof(ss);\n  int rv;\n\n"
        "  rv = getsockname(",
    ),
    Fix(
        "meshes",
        "horovod/common/gloo/gloo_context.cc",
        "  assert(global_context.IsEnabled());\n",
        "  assert(global_context.IsEnabled());\n\n"
        "  if (registered_ranks.empty() && ColumnsFromEnv()) {\n"
        "    // All of this runs in one thread: one set of connections will do.\n"
        "    ctx = global_context.ctx;\n"
        "    local_ctx = global_context.local_ctx;\n"
        "    cross_ctx = global_context.cross_ctx;\n"
        "    global_ctx = global_context.ctx;\n"
        "    gloo_iface_ = global_context.gloo_iface_;\n"
        "    timeout_ = global_context.timeout_;\n"
        "    hostname_ = global_context.hostname_;\n"
        "    return;\n"
        "  }\n",
    ),
    Fix(
        "meshes",
        "horovod/common/gloo/gloo_context.cc",
        "  local_ctx = Rendezvous(HOROVOD_GLOO_LOCAL_PREFIX + hostname_,\n",
        "  local_ctx = local_size == size && ColumnsFromEnv() ? ctx :\n"
        "              Rendezvous(HOROVOD_GLOO_LOCAL_PREFIX + hostname_,\n",
    ),
    Fix(
        "meshes",
        "horovod/common/gloo/gloo_context.cc",
        "  cross_ctx = Rendezvous(HOROVOD_GLOO_CROSS_PREFIX + std::to_string(local_rank),\n",
        "  cross_ctx = cross_size == size && ColumnsFromEnv() ? ctx :\n"
        "              Rendezvous(HOROVOD_GLOO_CROSS_PREFIX + std::to_string(local_rank),\n",
    ),
    Fix(
        "again",
        "horovod/common/parameter_manager.cc",
        "  } else {\n    Eigen::VectorXd v = TunableParameter::BestValue();\n",
        "  } else if (fixed_values_.find(variable) == fixed_values_.end()) {\n"
        "    Eigen::VectorXd v = TunableParameter::BestValue();\n",
    ),
    Fix(
        "idle",
        "horovod/common/tensor_queue.h",
        "#include <iostream>\n#include <mutex>\n",
        "#include <chrono>\n#include <condition_variable>\n#include <iostream>\n#include <mutex>\n",
    ),
    Fix(
        "idle",
        "horovod/common/tensor_queue.h",
        "class TensorQueue {\n",
        "// By which the background thread learns that there is something to do.\n"
        "class Arrivals {\n"
        "public:\n"
        "  static Arrivals& Get() {\n"
        "    static Arrivals* arrivals = new Arrivals;  // outlives all threads\n"
        "    return *arrivals;\n"
        "  }\n\n"
        "  void Notify() {\n"
        "    std::lock_guard<std::mutex> guard(mutex_);\n"
        "    any_ = true;\n"
        "    wake_.notify_one();\n"
        "  }\n\n"
        "  void WaitUntil(std::chrono::steady_clock::time_point latest) {\n"
        "    std::unique_lock<std::mutex> lock(mutex_);\n"
        "    wake_.wait_until(lock, latest, [this] { return any_; });\n"
        "    any_ = false;\n"
        "  }\n\n"
        "private:\n"
        "  std::mutex mutex_;\n"
        "  std::condition_variable wake_;\n"
        "  bool any_ = false;\n"
        "};\n\n"
        "class TensorQueue {\n",
    ),
    Fix(
        "idle",
        "horovod/common/tensor_queue.h",
        "  void FinalizeTensorQueue(const Status& status);\n",
        "  // Whether something that was enqueued has not been executed.\n"
        "  bool HasTensors() const {\n"
        "    std::lock_guard<std::mutex> guard(mutex_);\n"
        "    return !tensor_table_.empty();\n"
        "  }\n\n"
        "  void FinalizeTensorQueue(const Status& status);\n",
    ),
    Fix(
        "idle",
        "horovod/common/tensor_queue.cc",
        "  message_queue_.push(std::move(message));\n  return Status::OK();\n",
        "  message_queue_.push(std::move(message));\n"
        "  Arrivals::Get().Notify();\n"
        "  return Status::OK();\n",
    ),
    Fix(
        "idle",
        "horovod/common/tensor_queue.cc",
        "    message_queue_.push(std::move(messages[i]));\n  }\n",
        "    message_queue_.push(std::move(messages[i]));\n  }\n  Arrivals::Get().Notify();\n",
    ),
    Fix(
        "idle",
        "horovod/common/operations.cc",
        "  if (sleep_duration > std::chrono::steady_clock::duration::zero()) {\n"
        "    std::this_thread::sleep_for(sleep_duration);\n  }\n"
        "  state.last_cycle_start",
        '  static const int idle = GetIntEnvOrDefault("HOROVOD_IDLE_CYCLE_TIME", 0);\n'
        "  if (idle > 0) {\n"
        "    bool waiting = false;  // what other ranks do not have yet is asked for again soon\n"
        "    for (auto id : state.process_set_table.Ids()) {\n"
        "      waiting |= state.process_set_table.Get(id).tensor_queue.HasTensors();\n"
        "    }\n"
        "    Arrivals::Get().WaitUntil(\n"
        "        waiting ? start_time + sleep_duration\n"
        "                : state.last_cycle_start + std::chrono::milliseconds(idle));\n"
        "  } else if (sleep_duration > std::chrono::steady_clock::duration::zero()) {\n"
        "    std::this_thread::sleep_for(sleep_duration);\n"
        "  }\n"
        "  state.last_cycle_start",
    ),
    Fix(
        "idle",
        "horovod/common/operations.cc",
        "    horovod_global.shut_down = true;\n    horovod_global.background_thread.join();\n",
        "    horovod_global.shut_down = true;\n"
        "    Arrivals::Get().Notify();\n"
        "    horovod_global.background_thread.join();\n",
    ),
)


def apply_fixes(tree: Path) -> list[str]:
    """Applies every fix to ``tree`` and returns the names of the fixes.

    Raises ValueError when a place to change is not there exactly once; no file
    has been written then.
    """
    texts: dict[Path, str] = {}
    for fix in FIXES:
        path = tree / fix.file
        if path not in texts:
            texts[path] = path.read_text(encoding="utf-8") if path.is_file() else ""
        found = texts[path].count(fix.old)
        if found != 1:
            raise ValueError(f"{fix.file}: fix '{fix.name}' matches {found} places, expected 1")
        texts[path] = texts[path].replace(fix.old, fix.new)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(dict.fromkeys(fix.name for fix in FIXES))


if __name__ == "__main__":
    print("applied:", ", ".join(apply_fixes(Path(sys.argv[1]))))
