"""Processes that make batches ahead of the steps that take them."""
