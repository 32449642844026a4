"""What the network tests need on the host's side, and the guest's client."""
