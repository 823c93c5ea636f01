"""Imported last by the tests' forkserver: what it has imported is no garbage.

Hundreds of processes are forked of it. Each would look through a million objects whenever it
collects garbage, and copy the memory that it finds them in.
"""

import gc

gc.collect()
gc.freeze()
