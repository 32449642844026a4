"""The exit statuses, as --help documents them."""

from __future__ import annotations

FAILED = 1
USAGE = 2
CRASHED = 3
TIMED_OUT = 4
REBOOTED = 5
INTERRUPTED = 130

STATUSES = """\b
Exit status of boot:
    0  the guest powered off
    1  kvmxen could not do it
    2  wrong usage
    3  the guest crashed
    4  the time limit of --timeout was reached
    5  the guest rebooted, with --on-reboot destroy
  130  interrupted, or destroyed
"""

XENSTORE_STATUSES = """\b
Exit status:
    0  done
    1  kvmxen could not do it, no such domain runs, or the domain ended
    2  wrong usage, or an invalid path
    3  there is no such node
    4  the store refused it: no permission, or no space
  130  interrupted
"""
