"""xl: the command line of Xen's tools, as scripts and people know it."""
