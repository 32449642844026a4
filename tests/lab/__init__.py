"""The nested lab: a hardware-style KVM in an emulated machine, for hosts that have none."""
