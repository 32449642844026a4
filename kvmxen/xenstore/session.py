"""One client's watches and transactions, within its quota."""

from __future__ import annotations

import errno
from collections.abc import Callable

from kvmxen.xen.abi.xs_wire import ABS_PATH_MAX
from kvmxen.xenstore.access import Access
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import canonical, home
from kvmxen.xenstore.permissions import DOM0
from kvmxen.xenstore.state import State
from kvmxen.xenstore.transactions import Transaction
from kvmxen.xenstore.watches import UNLIMITED, Watch


class Session:
    """A client of `state`, as domain `domid`; `deliver(watch, path)` takes its events."""

    def __init__(self, state: State, domid: int, deliver: Callable[[Watch, str], None]) -> None:
        self.state = state
        self.domain = state.domain(domid)
        self.domid = domid
        self.access = Access(state, self.domain)
        self._deliver = deliver
        self.watches: dict[tuple[str, bytes], Watch] = {}
        self.transactions: dict[int, Transaction] = {}
        self._last_transaction = 0

    def path(self, text: str, *, special: bool = False) -> str:
        """`text` in canonical form; raises XenstoreError(EINVAL)."""
        limit = ABS_PATH_MAX if self.domid == DOM0 else self.domain.quota.path_max
        return canonical(text, self.domid, special=special, limit=limit or ABS_PATH_MAX)

    def watch(self, text: str, token: bytes, depth: int = UNLIMITED) -> Watch:
        """Watch the path `text`; the watch fires once as soon as the request is answered.

        Raises XenstoreError: EINVAL, EEXIST, ENOSPC, ENOMEM.
        """
        path = self.path(text, special=True)
        self._check_new(path, token)
        if not self.domain.allows("watches", self.domain.watches + 1):
            raise XenstoreError(errno.ENOSPC)
        if not self.domain.allows("memory", self.domain.memory + len(path) + len(token)):
            raise XenstoreError(errno.ENOMEM)
        watch = self.resume_watch(text, token, depth)
        self.state.defer(lambda: self._deliver(watch, watch.path))
        return watch

    def resume_watch(self, text: str, token: bytes, depth: int) -> Watch:
        """Restore a watch of the path `text`; raises XenstoreError: EINVAL, EEXIST."""
        path = self.path(text, special=True)
        self._check_new(path, token)
        prefix = 0 if text[0] in "/@" else len(home(self.domid)) + 1
        watch = Watch(path, token, self.domain, self._deliver, depth, prefix)
        self.watches[path, token] = watch
        self.state.watches.add(watch)
        self.domain.watches += 1
        self.domain.memory += len(path) + len(token)
        return watch

    def unwatch(self, text: str, token: bytes) -> None:
        """End a watch; raises XenstoreError(ENOENT) if there is none."""
        watch = self.watches.pop((self.path(text, special=True), token), None)
        if watch is None:
            raise XenstoreError(errno.ENOENT)
        self._forget(watch)

    def start_transaction(self) -> int:
        """Begin a transaction and return its id; raises XenstoreError(ENOSPC)."""
        if not self.domain.allows("transactions", self.domain.transactions + 1):
            raise XenstoreError(errno.ENOSPC)
        number = self._last_transaction
        while number == 0 or number in self.transactions:
            number = (number + 1) & 0xFFFFFFFF
        self.resume_transaction(number)
        return number

    def transaction(self, number: int) -> Transaction:
        """The transaction with that id; raises XenstoreError(ENOENT)."""
        try:
            return self.transactions[number]
        except KeyError:
            raise XenstoreError(errno.ENOENT) from None

    def end_transaction(self, number: int, *, commit: bool) -> None:
        """End a transaction, whatever the outcome; raises as commit() does."""
        transaction = self.transaction(number)
        del self.transactions[number]
        self.domain.transactions -= 1
        transaction.close()
        if commit:
            transaction.commit()

    def resume_transaction(self, number: int) -> Transaction:
        """Begin a transaction with the id `number` that it had; raises XenstoreError(EEXIST)."""
        if number == 0 or number in self.transactions:
            raise XenstoreError(errno.EEXIST)
        self._last_transaction = (number + 1) & 0xFFFFFFFF
        self.transactions[number] = Transaction(self.state, self.domid)
        self.domain.transactions += 1
        return self.transactions[number]

    def reset(self) -> None:
        """End all watches and drop all transactions."""
        for watch in self.watches.values():
            self._forget(watch)
        self.watches.clear()
        for transaction in self.transactions.values():
            transaction.close()
        self.domain.transactions -= len(self.transactions)
        self.transactions.clear()

    def _check_new(self, path: str, token: bytes) -> None:
        if (path, token) in self.watches:
            raise XenstoreError(errno.EEXIST)

    def _forget(self, watch: Watch) -> None:
        self.state.watches.remove(watch)
        self.domain.watches -= 1
        self.domain.memory -= len(watch.path) + len(watch.token)
