"""The commands of ``swell``. Everything heavy is imported by the command that needs it."""
