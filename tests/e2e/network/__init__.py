"""The host's side of the network tests, and the guest's client."""
