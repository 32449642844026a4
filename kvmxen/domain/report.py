"""The report of a guest's crash."""

from __future__ import annotations

from collections.abc import Callable

from kvmxen.errors import GuestFault
from kvmxen.pv.gate import PvVcpu
from kvmxen.pv.machine import Machine

_ROWS = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
)
_TAIL_LINES = 40
_STACK_WORDS = 12
_MASK64 = (1 << 64) - 1


def crash_report(machine: Machine, symbol: Callable[[int], str | None], console_tail: bytes) -> str:
    """The reason, the place, the registers, and the last lines of the console."""
    cpu = machine.crashed_cpu
    lines = [f"kvmxen: the guest crashed: {machine.crash_reason}"]
    if cpu is not None:
        vcpu = cpu.vcpu
        mode = "kernel" if vcpu.kernel_mode else "user"
        name = symbol(vcpu.rip)
        where = f" {name}" if name else ""
        lines.append(f"  vcpu {cpu.index} in {mode} mode at {vcpu.cs:04x}:{vcpu.rip:016x}{where}")
        lines += [_row(vcpu, row) for row in _ROWS]
        lines.append(
            f"  rflags {vcpu.rflags:016x}  ss {vcpu.ss:04x}  cr2 {vcpu.cr2:016x}  "
            f"cr3 {vcpu.cr3:016x}"
        )
        lines += _stack(machine, vcpu, symbol)
    tail = console_tail.decode("utf-8", "replace").replace("\r", "").splitlines()[-_TAIL_LINES:]
    if tail:
        lines.append("  the console's last lines:")
        lines += [f"    {_printable(line)}" for line in tail]
    return "\n".join(lines)


def _row(vcpu: PvVcpu, names: tuple[str, ...]) -> str:
    return "  " + "  ".join(f"{name:3} {getattr(vcpu, name):016x}" for name in names)


def _stack(machine: Machine, vcpu: PvVcpu, symbol: Callable[[int], str | None]) -> list[str]:
    """The code addresses among the first words of the stack, if the kernel has symbols."""
    found = []
    for index in range(_STACK_WORDS * 8):
        try:
            word = int.from_bytes(
                machine.tables.read(vcpu.cr3, vcpu.rsp + index * 8 & _MASK64, 8), "little"
            )
        except GuestFault:
            break
        name = symbol(word)
        if name:
            found.append(f"    {word:016x} {name}")
        if len(found) == _STACK_WORDS:
            break
    return ["  on the stack:", *found] if found else []


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in line)
