"""What the tests' processes begin with: their server imports this module, and nothing else.

What it has imported is no garbage. Hundreds of processes are forked of it, and each would look
through hundreds of thousands of objects when it collects garbage, and copy the memory that it
finds them in.
"""

import gc
from importlib import import_module

from trainer.worker import nursery

MODULES = (
    *nursery.MODULES,
    "trainer.worker.worker",
    "trainer.check.examination",
    "trainer.coordinator.coordinator",
    "pytest",
    "hypothesis",
    "tests.trainer.engine.loops",  # what most of the engine's tests run
)

gc.disable()
for module in MODULES:
    import_module(module)
gc.freeze()
gc.enable()
