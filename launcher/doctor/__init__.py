"""``swell doctor``: what a job needs of its target, looked at before it is launched."""
