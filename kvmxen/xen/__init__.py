"""The Xen that any guest sees: its ABI, events, grants, hypercalls, time; nothing of PV."""
