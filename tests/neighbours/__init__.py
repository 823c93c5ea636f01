"""Requests from where the neighbours are; docs/security.md has the table of who may do what."""
