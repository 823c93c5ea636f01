"""``swell dashboard``: runs in a browser on this machine, as they go on."""
