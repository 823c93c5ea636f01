"""An emulator of Vertex AI custom training: the local target of Swell, and a tool of its own.

It serves the CustomJob REST API, Cloud Logging's ``entries:list``, Secret Manager, Cloud Storage
and one metadata server per VM. VMs are processes, network namespaces or containers of this
machine, and a Spot market takes them away and gives them back. ``swell emulator --help`` says how
to start it.
"""
