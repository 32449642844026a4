"""What other processes ask of a running domain: its control socket, both ends of it."""
