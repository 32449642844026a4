"""Runs in the lab's machine: boots the guest under each monitor, and prints the counts.

Each boot gives one line of JSON on the second serial port; a nanosecond of the clock is one
instruction here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MARKER = b"the init runs"
# The end marker of the Linux guest, and of kvmxen's own.
ENDS = (b"the end", b"SUCCESS")
_TRACING = Path("/sys/kernel/tracing")
_TRIGGER = _TRACING / "events/kvm/kvm_userspace_exit/trigger"
_HISTOGRAM = _TRACING / "events/kvm/kvm_userspace_exit/hist"
_VM_EXITS = Path("/sys/kernel/debug/kvm/exits")
_TIMERS = Path("/proc/timer_list")
_REASON = re.compile(r"\{ reason:\s*(\d+).*?\} hitcount:\s*(\d+)")


def exits() -> dict[str, int]:
    """The exits to userspace since the count began, by KVM_EXIT_*; "all" includes the kernel's
    own."""
    found = {r: int(n) for r, n in _REASON.findall(_HISTOGRAM.read_text())}
    return found | {"all": int(_VM_EXITS.read_text())}


def counts() -> dict[str, int]:
    """The machine's executed instructions and exits."""
    return {"instructions": time.monotonic_ns() - idle_ns()} | exits()


def idle_ns() -> int:
    """How long the machine's CPU was idle: the clock jumps over that."""
    # A waiting io_uring makes it idle for I/O.
    found = re.findall(r"\.(?:idle|iowait)_sleeptime\s*:\s*(\d+) nsecs", _TIMERS.read_text())
    return sum(map(int, found))


def _less(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {reason: count - before.get(reason, 0) for reason, count in after.items()}


def measure(name: str, command: list[str]) -> dict[str, Any]:
    """Run `command` until its guest reports its end."""
    # Rewriting a trigger restarts its count.
    _TRIGGER.write_text("hist:keys=reason\n")
    result: dict[str, Any] = {"name": name, "operations": {}}
    output = b""
    ended = False
    before: dict[str, int] = {}
    idle = idle_ns()
    start = time.monotonic_ns()
    # A command that needs its start time has a placeholder for it.
    command = [str(start) if word == "@now" else word for word in command]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        for line in process.stdout:
            at = time.monotonic_ns()
            output += line
            if MARKER in line:
                result["boot"] = {"ns": at - start, "idle_ns": idle_ns() - idle, "exits": exits()}
            elif b"BEGIN" in line:
                before = counts()
            elif match := re.search(rb"BENCH (\w+) (?:(\d+) )?(\d+)", line):
                after = counts()
                taken = _less(after, before)
                operation: dict[str, Any] = {"ns": int(match[3]), "exits": taken}
                operation["instructions"] = taken.pop("instructions")
                # kvmxen's own guest reports the time of one operation, and its rounds follow each
                # other.
                operation |= {"rounds": int(match[2])} if match[2] else {}
                result["operations"][match[1].decode()] = operation
                before = after
            elif any(end in line for end in ENDS):
                ended = True
                break
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
        errors = process.stderr.read()
    if not ended:
        result["failed"] = (output + errors).decode(errors="replace")
    if errors.strip().startswith(b"{"):
        result["stats"] = json.loads(errors.splitlines()[-1])
    elif errors:
        result["errors"] = errors.decode(errors="replace")
    return result


def main(names: list[str]) -> int:
    """Run the jobs called `names`, or all if there are none."""
    for name, command in json.loads(Path("/lab/jobs").read_text()):
        if names and name not in names:
            continue
        print(f"lab: {name}", flush=True)
        result = measure(name, command)
        with Path("/dev/ttyS1").open("w") as port:
            print(json.dumps(result), file=port, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
