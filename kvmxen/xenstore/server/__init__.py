"""The domain's xenstore on a Unix socket: the server, and a small client."""
