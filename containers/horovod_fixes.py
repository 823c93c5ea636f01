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
