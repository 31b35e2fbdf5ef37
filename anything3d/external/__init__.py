"""external: a backend of `reconstruct` that is a command of somebody else (docs/backends.md has the protocol)."""
