"""The user's code, packed to be sent along."""
