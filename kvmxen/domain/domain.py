"""Domain: a guest as the command line, another program, or a client of its socket uses it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from kvmxen.backends.loop import Loop
from kvmxen.backends.terminal import ConsoleStream, PlainTerminal, open_terminal, stream_of
from kvmxen.backends.viewers import Viewers
from kvmxen.config import Config, DiskSpec
from kvmxen.config.domain import Action
from kvmxen.config.net import NetSpec
from kvmxen.domain.control.server import ControlServer
from kvmxen.domain.devices import Devices
from kvmxen.domain.ending import Ending
from kvmxen.domain.events import Event, EventStream, Feed
from kvmxen.domain.images import read_images
from kvmxen.domain.recipe import Lasting, Step, build_pv
from kvmxen.domain.record import Record, write_record
from kvmxen.domain.run import Run
from kvmxen.domain.rundir import RunDirectory
from kvmxen.domain.seed import with_seed
from kvmxen.domain.state import State
from kvmxen.errors import KvmxenError
from kvmxen.pv.machine import End
from kvmxen.streams import say

if TYPE_CHECKING:
    from kvmxen.domain.control.requests import Request
    from kvmxen.domain.description import Description

# A guest that ends sooner is booted again only after that time, in s: a kernel that always crashes
# must not keep the host busy and fill its disk with reports.
_SHORTEST_S = 1.0
# The events that come with the end of a run.
_ENDS = (Event.REBOOTED, Event.PRESERVED, Event.ENDED)


class Domain:
    """A guest of `config`, built and not started; the object survives a reboot of its guest.

    Any thread may call any method. Leaving it as a context destroys the guest, if it has not
    ended, and frees all its host resources. `terminal` overrides the console of `config`.
    `step()` is a context for each step of the build that may take long. Raises KvmxenError.

    kvmxen uses the signal SIGUSR1, unless the program has a handler of its own for it.
    """

    def __init__(
        self, config: Config, *, terminal: PlainTerminal | None = None, step: Step = nullcontext
    ) -> None:
        self._changed = threading.Condition()
        self._listeners: list[Callable[[Event], None]] = []
        self._thread: threading.Thread | None = None
        self._paused = self._destroyed = self._preserved = self._done = False
        # How the run in progress ended.
        self._over: End | None = None
        # How the last run ended, and whether the domain ended with it.
        self._last: Ending | None = None
        self._settled = False
        self._failure: BaseException | None = None
        self._figures: dict[str, object] = {}
        self._loop = Loop()
        self._viewers = Viewers(self._loop)
        self._feed = Feed()
        with ExitStack() as undo:
            undo.callback(self._loop.close)
            undo.callback(self._viewers.close)
            with step():
                folder = undo.enter_context(RunDirectory(config.name, uuid=config.uuid))
                self._identity = folder.identity
                undo.callback(self._record, folder.root)
                self.config = config = with_seed(config, folder.uuid, folder.path)
                if terminal is None:
                    terminal = undo.enter_context(open_terminal(config.console))
                journal = None
                if config.xenstore:
                    from kvmxen.xenstore.server.journal import Journal

                    journal = undo.enter_context(Journal(config.xenstore))
                images = read_images(config, folder.path)
            self._lasting = Lasting(
                folder.uuid,
                folder.path,
                self._loop,
                terminal,
                self._viewers,
                journal,
                images,
            )
            # None while the guest reboots, and after the end.
            self._run: Run | None = build_pv(config, self._lasting, self._ended, step)
            undo.callback(self._run.abandon)
            undo.enter_context(ControlServer(folder.path, self._perform))
            folder.announce()
            self._held = undo.pop_all()

    def __enter__(self) -> Domain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def uuid(self) -> UUID:
        """The UUID that the guest sees; it survives a reboot."""
        return self._identity.uuid

    # Life cycle.

    @property
    def state(self) -> State:
        """What the domain does at the moment."""
        if self._done:
            return State.ENDED
        if self._preserved:
            return State.PRESERVED
        return State.PAUSED if self._paused or self._thread is None else State.RUNNING

    @property
    def ending(self) -> Ending | None:
        """How the guest's last run ended; None in its first run."""
        return self._last

    def start(self, *, paused: bool = False) -> None:
        """Start the guest at its first instruction; if `paused`, only unpause() lets it run."""
        with self._changed:
            if self._thread is not None:
                raise KvmxenError(f"the domain {self.config.name} has already been started")
            if paused:
                self._set_paused(True)
            self._begin()
        self._tell(Event.STARTED)
        if paused:
            self._tell(Event.PAUSED)

    def pause(self) -> None:
        """Stop every vCPU where it is; time continues. Returns when all have left the guest."""
        if self._set_paused(True):
            self._tell(Event.PAUSED)

    def unpause(self) -> None:
        """Undo pause."""
        if self._set_paused(False):
            self._tell(Event.UNPAUSED)

    def _set_paused(self, paused: bool) -> bool:
        """Pause or unpause; returns whether that was a change."""
        with self._changed:
            if self._preserved or self._settled:
                raise KvmxenError(f"the guest of {self.config.name} has ended")
            changed, self._paused = self._paused is not paused, paused
            if self._run is not None:
                (self._run.machine.pause if paused else self._run.machine.resume)()
        return changed

    def shutdown(self) -> bool:
        """Ask the guest to power off, without waiting; returns whether there is a guest to ask."""
        return self._ask("poweroff")

    def reboot(self) -> bool:
        """Ask the guest to reboot; see shutdown()."""
        return self._ask("reboot")

    def sysrq(self, key: str) -> None:
        """Ask a Linux guest for what its magic SysRq `key`, a letter or digit, does."""
        from kvmxen.domain.control.requests import Sysrq

        request = Sysrq(key)
        with self._changed:
            self._living().sysrq(request.key)

    def nmi(self) -> None:
        """Send vCPU 0 a non-maskable interrupt; a kernel without a callback for it gets none."""
        with self._changed:
            self._living().machine.cpus[0].send_nmi()

    def _living(self) -> Run:
        if self._run is None or self._thread is None or self._over is not None:
            raise KvmxenError(f"the guest of {self.config.name} does not run")
        return self._run

    def destroy(self) -> None:
        """End the guest at once; does not wait."""
        with self._changed:
            self._destroyed = True
            self._changed.notify_all()
        self._ended(End.DESTROYED)
        self._begin()

    def wait(self, timeout: float | None = None) -> Ending | None:
        """Wait for the end; returns it, or None if it takes longer than `timeout` seconds.

        Raises KvmxenError if the guest could not be booted again, and any internal error.
        """
        return self._wait(lambda: self._done, timeout)

    def _wait(self, over: Callable[[], bool], timeout: float | None) -> Ending | None:
        longest = None if timeout is None else min(timeout, threading.TIMEOUT_MAX)
        with self._changed:
            if not self._changed.wait_for(over, longest):
                return None
        if self._failure is not None:
            raise self._failure
        return self._last

    def close(self) -> None:
        """Destroy the guest, wait, and free all host resources; does nothing the second time."""
        self.destroy()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def listen(self, told: Callable[[Event], None]) -> None:
        """Call `told` for each event from now on, in the thread that caused it."""
        self._listeners.append(told)

    # Console, figures, devices.

    @property
    def console(self) -> ConsoleStream:
        """The console, if the configuration leaves it to the program."""
        stream = self._lasting.terminal.stream
        if stream is None:
            raise KvmxenError(
                f"the console of {self.config.name} is not the program's: "
                'give it ConsoleSpec("program")'
            )
        return stream

    @property
    def console_path(self) -> str:
        """The path of the console's terminal, empty if it has none."""
        return self._lasting.terminal.path

    def open_console(self, *, writes: bool = True, force: bool = False) -> ConsoleStream:
        """Look at the console, whatever its kind, from its history (64 KiB) on.

        With `writes` the stream may also type as soon as no other does; `force` disconnects the
        one that may.
        """
        ours, theirs = socket.socketpair()
        return stream_of(ours, writes=self.attach_console(theirs, writes=writes, force=force))

    def events(self) -> EventStream:
        """The events from now on, to be read in any thread."""
        ours, theirs = socket.socketpair()
        self.attach_feed(theirs)
        return EventStream(ours)

    def stats(self) -> dict[str, object]:
        """The figures of the current run, or the last: counts, times in ns, sizes in KiB."""
        with self._changed:
            return self._figures if self._run is None else self._run.figures()

    def attach_disk(self, spec: DiskSpec) -> str:
        """Attach a disk; returns its name in the guest."""
        return self._devices().attach_disk(spec)

    def detach_disk(self, device: str, *, force: bool = False) -> bool:
        """Detach the disk `device` (such as xvdb); returns whether the guest gave it up in 10 s.

        With `force` the guest is not asked.
        """
        return self._devices().detach_disk(device, force=force)

    def resize_disk(self, device: str) -> None:
        """Show the guest the current size of the file of the disk `device`."""
        self._devices().resize_disk(device)

    def attach_net(self, spec: NetSpec) -> int:
        """Attach a network interface; returns its number."""
        return self._devices().attach_net(spec)

    def detach_net(self, number: int, *, force: bool = False) -> bool:
        """Detach the network interface `number`; see detach_disk."""
        return self._devices().detach_net(number, force=force)

    def device_figures(self) -> dict[str, dict[str, int]]:
        """The counters of each device, by its kind and number, such as "vbd/51712"."""
        return self._devices().device_figures()

    def describe(self) -> Description:
        """What the domain is, and what it has at the moment."""
        from kvmxen.domain.description import Description

        identity = self._identity
        with self._changed:
            run = self._run
            return Description(
                id=identity.id,
                uuid=identity.uuid,
                pid=identity.pid,
                began=identity.began,
                state=self.state,
                console=self._lasting.terminal.path,
                memory=run.machine.size if run else self.config.memory,
                vcpus=run.machine.vcpus if run else 0,
                config=self.config,
                disks=run.devices.disks() if run else (),
                interfaces=run.devices.interfaces() if run else (),
            )

    # For clients of the control socket.

    def _perform(self, request: Request, sockets: list[socket.socket]) -> object:
        from kvmxen.domain.control.commands import perform

        return perform(self, request, sockets)

    def attach_console(self, connected: socket.socket, *, writes: bool, force: bool) -> bool:
        """See Console (control/requests.py)."""
        return self._viewers.attach(connected, writes=writes, force=force)

    def attach_feed(self, connected: socket.socket) -> None:
        """See Events (control/requests.py)."""
        self._feed.attach(connected)

    def wait_for_clients(self, timeout: float) -> dict[str, object] | None:
        """Like wait(), but returns as soon as the end is known, while the socket still exists."""
        ending = self._wait(lambda: self._settled, timeout)
        return None if ending is None else vars(ending) | {"end": ending.end.name}

    def _devices(self) -> Devices:
        with self._changed:
            if self._run is not None:
                return self._run.devices
        raise KvmxenError(f"the guest of {self.config.name} is rebooting or has ended: try again")

    # Internals.

    def _begin(self) -> bool:
        """Start the domain's thread; returns False if it was started before."""
        with self._changed:
            if self._thread is not None:
                return False
            self._thread = threading.Thread(target=self._live, name="domain", daemon=True)
            self._thread.start()
            return True

    def _ask(self, how: str) -> bool:
        with self._changed:
            if self._run is None or self._thread is None or self._over is not None:
                return False
            self._run.request(how)
            return True

    def _ended(self, end: End) -> None:
        """From any thread: note that the guest's run is over."""
        self._over = self._over or end
        self._loop.post(self._loop.stop)

    def _tell(self, event: Event) -> None:
        ending = self._last if event in _ENDS else None
        self._feed.tell(event, ending)
        for told in list(self._listeners):
            try:
                told(event)
            except Exception as error:
                say(f"a listener failed: {type(error).__name__}: {error}")

    def _live(self) -> None:
        try:
            began = time.monotonic()
            while self._one_run():
                self._tell(Event.REBOOTED)
                self._pause_for_breath(began + _SHORTEST_S - time.monotonic())
                began = time.monotonic()
                self._build_again()
        except BaseException as error:
            self._settle(error)
            if self._run is not None:
                self._run.abandon()
        finally:
            self._finish()

    def _one_run(self) -> bool:
        """Run the guest to its end; returns whether to boot it again."""
        run = self._run
        assert run is not None
        if not self._destroyed:
            run.start()
        while self._over is None:
            self._loop.run()
        with self._changed:
            # A request to the guest that is being passed on, perhaps below a signal handler that
            # destroys it, comes to its end first.
            end = End.DESTROYED if self._destroyed else self._over
        self._last = run.stop(end)
        action = self._action(self._last.end)
        if action == "preserve":
            self._preserve()
        with self._changed:
            self._run, self._figures = None, run.figures()
        run.close()
        if action != "restart":
            self._settle(None)
        return action == "restart"

    def _action(self, end: End) -> Action:
        config = self.config
        match end:
            case End.POWEROFF:
                return config.on_poweroff
            case End.REBOOT:
                return config.on_reboot
            case End.CRASH:
                return config.on_crash
        return "destroy"

    def _preserve(self) -> None:
        """Wait until a guest that has stopped is destroyed."""
        self._preserved = True
        self._tell(Event.PRESERVED)
        while not self._destroyed:
            self._loop.run()

    def _pause_for_breath(self, seconds: float) -> None:
        """Wait that long, unless the domain is destroyed."""
        with self._changed:
            self._changed.wait_for(lambda: self._destroyed, max(0.0, seconds))

    def _settle(self, failure: BaseException | None) -> None:
        with self._changed:
            self._failure, self._settled = failure, True
            self._changed.notify_all()

    def _build_again(self) -> None:
        self._over = None
        if self.config.bootloader == "pygrub":
            # The guest may have installed another kernel.
            images = read_images(self.config, self._lasting.folder)
            self._lasting = replace(self._lasting, images=images)
        run = build_pv(self.config, self._lasting, self._ended)
        with self._changed:
            if self._paused:
                run.machine.pause()
            self._run = run
        if self._destroyed:
            self._over = End.DESTROYED

    def _finish(self) -> None:
        try:
            self._held.close()
        except BaseException as error:
            self._failure = self._failure or error
        with self._changed:
            self._done = True
            self._changed.notify_all()
        self._tell(Event.ENDED)
        self._feed.close()

    def _record(self, root: Path) -> None:
        """Keep how the domain ended, for those who were not there; one never started leaves
        nothing."""
        if not self._settled:
            return
        ending, failure, events = self._last, self._failure, self._feed.past()
        if failure is not None:
            record = Record(self._identity, time.time(), "failed", str(failure), events=events)
        elif ending is not None:
            end = ending.end.name.lower()
            record = Record(self._identity, ending.at, end, ending.reason, ending.report, events)
        with suppress(OSError):
            write_record(root, record)
