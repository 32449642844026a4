"""READ FIRST: how a domain comes up, runs and ends; pv() is the recipe, one step a line."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from uuid import uuid4

from kvmxen.abi.grant_table import RESERVED_CONSOLE, RESERVED_XENSTORE
from kvmxen.backends.console import Console
from kvmxen.backends.guest import Guest
from kvmxen.backends.terminal import PlainTerminal, open_terminal
from kvmxen.backends.xenbus import Xenbus
from kvmxen.backends.xenstore import XenstoreBackend
from kvmxen.config import Config
from kvmxen.config.sizes import MIB
from kvmxen.control.hotplug import Hotplug
from kvmxen.control.server import ControlServer
from kvmxen.layout import PAGE_SHIFT, Layout
from kvmxen.loader.elf import ElfKernel
from kvmxen.loader.files import RegularFile
from kvmxen.loader.frames import fill_m2p
from kvmxen.loader.kernel import load_kernel
from kvmxen.loader.pv import build
from kvmxen.loop import Loop
from kvmxen.machine import End, Machine
from kvmxen.report import crash_report
from kvmxen.rundir import RunDirectory, cache_directory
from kvmxen.stats import Stats
from kvmxen.trace import Trace
from kvmxen.xenstored.client import SOCKET
from kvmxen.xenstored.journal import Journal
from kvmxen.xenstored.server import Server

EXIT_POWEROFF = 0
EXIT_CRASHED = 3
EXIT_TIMEOUT = 4
EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Outcome:
    """How a boot ended; `exit_status` is the process's."""

    exit_status: int


class Supervisor:
    """The person's side of a running domain: Ctrl-C, the escape key, SIGTERM, the timeout."""

    def __init__(self, loop: Loop, timeout: float | None) -> None:
        self.loop = loop
        self.uuid = uuid4()
        self.status: int | None = None
        self.end: End | None = None
        self._asked = False
        self._ask: Callable[[], None] = lambda: None
        if timeout is not None:
            loop.after(timeout, self._time_out)

    def attach(self, ask: Callable[[], None]) -> None:
        """Watch over a machine about to start; `ask()` requests its guest to shut down."""
        self._ask, self.end = ask, None
        if self.status is not None:
            self.ended(End.DESTROYED)

    def wait(self) -> None:
        """Run the loop until the guest's run is over."""
        while self.end is None:
            self.loop.run()

    def ended(self, end: End) -> None:
        """From any thread: the guest's run is over."""
        self.end = end
        self.loop.post(self.loop.stop)

    def interrupt(self) -> None:
        """The person wants it to end: ask the guest the first time, destroy it the second."""
        if not self._asked:
            self._asked = True
            self._say("asking the guest to shut down; once more to destroy it")
            self._ask()
        else:
            self._destroy(EXIT_INTERRUPTED)

    def _time_out(self) -> None:
        self._say("the timeout is over: the guest is destroyed")
        self._destroy(EXIT_TIMEOUT)

    def _destroy(self, status: int) -> None:
        self.status = status
        self.ended(End.DESTROYED)

    @staticmethod
    def _say(text: str) -> None:
        print(f"\rkvmxen: {text}\r", file=sys.stderr, flush=True)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM interrupt, for the time of the context."""

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self.loop.post(self.interrupt)

        before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def boot(config: Config) -> Outcome:
    """Boot what `config` says, and again after each reboot; returns when the domain is gone.

    Raises KvmxenError for what a person can mend.
    """
    loop = Loop()
    supervisor = Supervisor(loop, config.timeout)
    try:
        with (
            RunDirectory(config.name) as folder,
            supervisor.signals(),
            open_terminal(config.console, supervisor.interrupt) as terminal,
            Journal(config.xenstore) if config.xenstore else nullcontext() as journal,
        ):
            kernel = read_kernel(config)
            ramdisk = read_ramdisk(config)
            while True:
                status = pv(config, kernel, ramdisk, terminal, supervisor, folder.path, journal)
                if status is not None:
                    return Outcome(status)
    finally:
        loop.close()


def pv(
    config: Config,
    kernel: ElfKernel,
    ramdisk: bytes | bytearray | None,
    terminal: PlainTerminal,
    supervisor: Supervisor,
    folder: Path,
    journal: Journal | None = None,
) -> int | None:
    """One run of a 64-bit PV domain: its exit status, None when it is to be booted again."""
    loop = supervisor.loop
    layout = Layout.plan(config.memory, config.vcpus)
    stats = Stats(config)
    machine = Machine(
        layout,
        uuid=supervisor.uuid,
        ended=supervisor.ended,
        output=lambda data: emergency(data),
        trace=Trace() if config.debug else None,
        dispatcher=config.shim == "dispatch" and not config.debug,
    )
    try:
        console_port = machine.events.open_backend(lambda: loop.post(console.pump))
        store_port = machine.events.open_backend(lambda: xenstore.pump())
        start = build(
            machine.memory,
            layout,
            kernel,
            ramdisk,
            config.cmdline or default_cmdline(config),
            console_port=console_port,
            store_port=store_port,
        )
        fill_m2p(machine.memory, layout)
        machine.grants.seed(RESERVED_CONSOLE, start.console_mfn)
        machine.grants.seed(RESERVED_XENSTORE, start.store_mfn)
        xenstore = XenstoreBackend(
            machine.memory,
            start.store_mfn << PAGE_SHIFT,
            lambda: machine.events.notify(store_port),
        )
        if journal is not None:
            journal.attach(xenstore.store)
        xenstore.populate(
            name=config.name,
            uuid=str(machine.uuid),
            memory_kib=config.memory >> 10,
            vcpus=config.vcpus,
            console_mfn=start.console_mfn,
            console_port=console_port,
            store_mfn=start.store_mfn,
            store_port=store_port,
            console_tty=terminal.path,
        )
        console = Console(
            machine.memory,
            start.console_mfn << PAGE_SHIFT,
            lambda: machine.events.notify(console_port),
            terminal,
            loop,
        )

        def emergency(data: bytes) -> None:
            console.emergency(data)
            loop.post(console.pump)

        machine.boot(
            entry=start.entry, stack=start.stack, start_info=start.start_info, cr3=start.cr3
        )
        supervisor.attach(lambda: xenstore.request_shutdown("poweroff"))
        stats.built()
        guest = Guest(machine.memory, machine.grants, machine.events, xenstore.store, machine.fail)
        with Server(xenstore.store, folder / SOCKET, machine.fail), Xenbus(guest) as bus:
            hotplug = Hotplug(guest, bus, config)
            hotplug.start()
            machine.start()
            with ControlServer(folder, hotplug.commands(), machine.fail):
                supervisor.wait()
            xenstore.shut_down()
            machine.stop()
            machine.join()
            figures = stats.figures(machine, bus.figures())
            if machine.trace:
                machine.trace.grants(machine.grants)
        console.close()
        stats.report(figures)
        return conclude(config, machine, kernel, supervisor, console.tail)
    finally:
        machine.close()


def conclude(
    config: Config, machine: Machine, kernel: ElfKernel, supervisor: Supervisor, tail: bytes
) -> int | None:
    """The exit status for how the run ended, with the crash report; None for a reboot."""
    if machine.failure is not None:
        raise machine.failure
    match supervisor.end:
        case End.REBOOT:
            return None if config.on_reboot == "restart" else EXIT_POWEROFF
        case End.CRASH:
            print(crash_report(machine, kernel.symbols.find, tail), file=sys.stderr, flush=True)
            return EXIT_CRASHED
        case End.DESTROYED:
            return supervisor.status
    return EXIT_POWEROFF


def read_kernel(config: Config) -> ElfKernel:
    """The kernel that `config` names, else the demo guest; raises KvmxenError."""
    if config.kernel:
        return load_kernel(config.kernel, cache=cache_directory())
    image = (Path(__file__).parent / "guests/demo.elf").read_bytes()
    return ElfKernel.parse(image)


def default_cmdline(config: Config) -> str:
    """What makes a Linux kernel speak on the Xen console; nothing for the demo guest."""
    return "console=hvc0" if config.kernel else ""


def read_ramdisk(config: Config) -> bytes | bytearray | None:
    """The initial ramdisk that `config` asks for; raises KvmxenError if it cannot be read."""
    if config.shell:
        from kvmxen.initramfs import shell_initramfs

        return shell_initramfs()
    if config.ramdisk is None:
        return None
    most = config.memory
    with RegularFile(config.ramdisk, f"the ramdisk {config.ramdisk}") as file:
        return file.read(
            most, f"the guest has {most // MIB} MiB of memory; give the guest more memory"
        )
