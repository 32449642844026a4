"""xenstore: bytes in, replies and watch events out; no I/O inside, the caller serialises calls."""
