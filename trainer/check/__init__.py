"""``swell check``: a task is tried in seconds, on this machine, before it is launched."""
