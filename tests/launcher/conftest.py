"""Google's client as the launcher has it: without what nobody asks it for, which takes a second.

A test that imports the package itself, or has pytest do so, gets the same one.
"""

from launcher.api.client import import_client

import_client()
