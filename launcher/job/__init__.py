"""The job: what the user writes, checked, and the CustomJob that is built from it."""
