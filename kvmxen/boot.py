"""READ FIRST: how a domain comes up, runs and ends; pv() is the recipe, one step a line."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kvmxen.abi.grant_table import RESERVED_CONSOLE, RESERVED_XENSTORE
from kvmxen.backends.console import Console
from kvmxen.backends.guest import Guest
from kvmxen.backends.terminal import PlainTerminal, open_terminal, terminal_size
from kvmxen.backends.xenbus import Xenbus
from kvmxen.backends.xenstore import XenstoreBackend
from kvmxen.config import Config
from kvmxen.config.sizes import MIB
from kvmxen.control.hotplug import Hotplug
from kvmxen.control.server import ControlServer
from kvmxen.errors import Interrupted, KvmxenError
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
from kvmxen.streams import say, tell
from kvmxen.supervisor import Supervisor
from kvmxen.trace import Trace
from kvmxen.xenstored.client import SOCKET
from kvmxen.xenstored.journal import Journal
from kvmxen.xenstored.server import Server

if TYPE_CHECKING:
    from kvmxen.modules import Module

EXIT_POWEROFF = 0
EXIT_CRASHED = 3
EXIT_REBOOTED = 5


@dataclass(frozen=True)
class Outcome:
    """How a boot ended; `exit_status` is the process's."""

    exit_status: int


def boot(config: Config) -> Outcome:
    """Boot what `config` says, and again after each reboot; returns when the domain is gone.

    Raises KvmxenError for what a person can mend.
    """
    loop = Loop()
    supervisor = Supervisor(loop)
    try:
        with supervisor.signals(config.timeout), ExitStack() as stack:
            with supervisor.interruptible():
                folder = stack.enter_context(RunDirectory(config.name))
                terminal = stack.enter_context(open_terminal(config.console, supervisor.interrupt))
                supervisor.leaving = terminal.restore
                journal = stack.enter_context(Journal(config.xenstore)) if config.xenstore else None
                stats = stack.enter_context(Stats(config))
                kernel = read_kernel(config)
                ramdisk = read_ramdisk(config, kernel)
            while True:
                status = pv(
                    config, kernel, ramdisk, terminal, supervisor, stats, folder.path, journal
                )
                if status is not None:
                    return Outcome(status)
    except Interrupted as interruption:
        say(str(interruption))
        return Outcome(interruption.exit_status)
    finally:
        loop.close()


def pv(
    config: Config,
    kernel: ElfKernel,
    ramdisk: bytes | bytearray | None,
    terminal: PlainTerminal,
    supervisor: Supervisor,
    stats: Stats,
    folder: Path,
    journal: Journal | None = None,
) -> int | None:
    """One run of a 64-bit PV domain: its exit status, None when it is to be booted again."""
    loop = supervisor.loop
    layout = Layout.plan(config.memory, config.max_vcpus, config.max_memory)
    stats.begin()
    machine = Machine(
        layout,
        uuid=supervisor.uuid,
        ended=supervisor.ended,
        output=lambda data: emergency(data),
        trace=Trace() if config.debug else None,
        dispatcher=config.shim == "dispatch" and not config.debug,
        break_event_loops=config.break_event_loops,
    )
    try:
        console_port = machine.events.open_backend(lambda: loop.post(console.pump))
        store_port = machine.events.open_backend(lambda: xenstore.pump())
        with supervisor.interruptible():
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
            max_memory_kib=config.max_memory >> 10,
            vcpus=config.vcpus,
            max_vcpus=config.max_vcpus,
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
        guest = Guest(machine.memory, machine.grants, machine.events, xenstore.store, machine.fail)
        with Server(xenstore.store, folder / SOCKET, machine.fail), Xenbus(guest) as bus:
            hotplug = Hotplug(guest, bus, config)
            with supervisor.interruptible():
                hotplug.start()
            supervisor.attach(lambda: xenstore.request_shutdown("poweroff"))
            stats.built()
            machine.start()
            with ControlServer(folder, hotplug.do):
                end = supervisor.wait()
            xenstore.shut_down()
            machine.stop()
            machine.join()
            figures = stats.figures(machine, bus.figures())
            if machine.trace:
                machine.trace.grants(machine.grants)
        console.close()
        stats.report(figures)
        return conclude(config, machine, kernel, end, supervisor.status, console.tail)
    finally:
        machine.close()


def conclude(
    config: Config, machine: Machine, kernel: ElfKernel, end: End, status: int | None, tail: bytes
) -> int | None:
    """The exit status for how the run ended, with the crash report; None for a reboot.

    `status` is that of a domain that a person or the timeout ended, whatever its guest did then.
    """
    if machine.failure is not None:
        raise machine.failure
    if end is End.CRASH:
        tell(crash_report(machine, kernel.symbols.find, tail))
        return EXIT_CRASHED
    if status is not None:
        return status
    if end is End.REBOOT:
        return None if config.on_reboot == "restart" else EXIT_REBOOTED
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


def read_ramdisk(config: Config, kernel: ElfKernel) -> bytes | bytearray | None:
    """The initial ramdisk that `config` asks for; raises KvmxenError if it cannot be read."""
    if config.shell:
        from kvmxen.initramfs import shell_initramfs

        return shell_initramfs(
            modules=find_drivers(config, kernel), size=terminal_size(config.console)
        )
    if config.ramdisk is None:
        return None
    most = config.memory
    with RegularFile(config.ramdisk, f"the ramdisk {config.ramdisk}") as file:
        return file.read(
            most, f"the guest has {most // MIB} MiB of memory; give the guest more memory"
        )


def find_drivers(config: Config, kernel: ElfKernel) -> list[Module]:
    """The modules for the shell of a guest with `kernel`, none if this host does not have them.

    Raises KvmxenError if `config` names a folder, and it does not have them either.
    """
    from kvmxen.modules import drivers

    try:
        return drivers(kernel, config.modules or Path("/"))
    except KvmxenError as error:
        if config.modules:
            raise KvmxenError(f"{error}; name another folder by --modules") from None
        if config.disks or config.nets:
            say(f"{error}: if its drivers are not built in, name their folder by --modules")
        return []
