"""READ FIRST: how a domain comes up. build_pv() is the recipe, one step a line."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from kvmxen.backends.console import Console
from kvmxen.backends.loop import Loop
from kvmxen.backends.peer import Peer
from kvmxen.backends.terminal import PlainTerminal
from kvmxen.backends.viewers import Viewers
from kvmxen.backends.xenbus import Xenbus
from kvmxen.backends.xenstore import XenstoreBackend
from kvmxen.config import Config
from kvmxen.domain.devices import Devices
from kvmxen.domain.images import Images
from kvmxen.domain.run import Run
from kvmxen.kvm.layout import PAGE_SHIFT
from kvmxen.loader.pv import build
from kvmxen.pv.machine import End, Machine
from kvmxen.pv.shim.plan import plan
from kvmxen.pv.trace import Trace
from kvmxen.xen.abi.grant_table import RESERVED_CONSOLE, RESERVED_XENSTORE
from kvmxen.xenstore.server.protocol import SOCKET
from kvmxen.xenstore.server.server import Server

if TYPE_CHECKING:
    from kvmxen.xenstore.server.journal import Journal

# A context for a step that may take long, in which a person may interrupt it.
Step = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Lasting:
    """The objects that a domain keeps when its guest reboots."""

    uuid: UUID
    folder: Path
    loop: Loop
    terminal: PlainTerminal
    viewers: Viewers
    journal: Journal | None
    images: Images


def build_pv(
    config: Config, lasting: Lasting, ended: Callable[[End], None], step: Step = nullcontext
) -> Run:
    """Build a run of a 64-bit PV domain; its guest has not executed an instruction yet.

    `ended(end)` is called once, from any thread, when the guest's run is over. Raises KvmxenError.
    """
    began = time.monotonic_ns()
    kernel, ramdisk, cmdline = lasting.images
    layout = plan(config.memory, config.max_vcpus, config.max_memory)
    machine = Machine(
        layout,
        uuid=lasting.uuid,
        ended=ended,
        dispatcher=config.shim == "dispatch" and not config.debug,
        break_event_loops=config.break_event_loops,
    )
    with ExitStack() as undo:
        undo.callback(machine.close)
        events, memory = machine.events, machine.memory
        console_port, store_port = events.open_backend(), events.open_backend()
        with step():
            start = build(
                memory,
                layout,
                kernel,
                ramdisk,
                cmdline,
                console_port=console_port,
                store_port=store_port,
            )
        machine.enter_at(
            entry=start.entry, stack=start.stack, start_info=start.start_info, cr3=start.cr3
        )
        machine.grants.seed(RESERVED_CONSOLE, start.console_mfn)
        machine.grants.seed(RESERVED_XENSTORE, start.store_mfn)

        xenstore = XenstoreBackend(
            memory, start.store_mfn << PAGE_SHIFT, lambda: events.notify(store_port)
        )
        events.serve(store_port, xenstore.pump)
        if lasting.journal is not None:
            lasting.journal.attach(xenstore.store.state)
        xenstore.populate(
            name=config.name,
            uuid=str(lasting.uuid),
            memory_kib=config.memory >> 10,
            max_memory_kib=config.max_memory >> 10,
            vcpus=config.vcpus,
            max_vcpus=config.max_vcpus,
            console_mfn=start.console_mfn,
            console_port=console_port,
            store_mfn=start.store_mfn,
            store_port=store_port,
            console_tty=lasting.terminal.path,
        )

        console = Console(
            memory,
            start.console_mfn << PAGE_SHIFT,
            lambda: events.notify(console_port),
            lasting.terminal,
            lasting.loop,
            lasting.viewers,
        )
        events.serve(console_port, console.ring)
        machine.emergency_output = console.emergency

        peer = Peer(memory, machine.grants, events, xenstore.store, machine.fail)
        serving = undo.enter_context(ExitStack())
        serving.enter_context(Server(xenstore.store, lasting.folder / SOCKET, machine.fail))
        bus = serving.enter_context(Xenbus(peer))
        devices = Devices(peer, bus, config)
        with step():
            devices.attach_first()
        return Run(
            machine=machine,
            trace=Trace() if config.debug else None,
            symbol=kernel.symbol,
            xenstore=xenstore,
            console=console,
            devices=devices,
            serving=serving,
            undo=undo.pop_all(),
            began=began,
        )
