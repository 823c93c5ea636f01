"""Google's API: requests, their errors, and when to try again."""
