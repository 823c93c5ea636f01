"""Cloud Storage in a folder: buckets, objects, uploads, preconditions, and faults on demand.

Nothing here knows the rest of the emulator, so that it may become a package of its own: of Swell
it takes ``launcher.job.durations``, for how long a fault delays, and ``launcher.job.place``, for
what a bucket can be called. Besides, it needs Starlette and google-crc32c; ``Storage.app`` is for
any ASGI server that ends a connection on request as uvicorn does (see ``faults``).
"""
