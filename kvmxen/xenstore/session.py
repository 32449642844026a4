"""What one client has under way: its watches and its transactions, within its quota."""

from __future__ import annotations

import errno
from collections.abc import Callable

from kvmxen.abi.xs_wire import ABS_PATH_MAX
from kvmxen.xenstore.access import Access
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.paths import canonical, home
from kvmxen.xenstore.permissions import DOM0
from kvmxen.xenstore.state import State
from kvmxen.xenstore.transactions import Transaction
from kvmxen.xenstore.watches import UNLIMITED, Watch


class Session:
    """A client of `state` that is domain `domid`; `deliver(watch, path)` takes its events."""

    def __init__(self, state: State, domid: int, deliver: Callable[[Watch, str], None]) -> None:
        self.state = state
        self.domain = state.domain(domid)
        self.domid = domid
        self.access = Access(state, self.domain)
        self._deliver = deliver
        self._watches: dict[tuple[str, bytes], Watch] = {}
        self._transactions: dict[int, Transaction] = {}
        self._last_transaction = 0

    def path(self, text: str, *, special: bool = False) -> str:
        """`text` in canonical form; raises XenstoreError(EINVAL)."""
        limit = ABS_PATH_MAX if self.domid == DOM0 else self.domain.quota.path_max
        return canonical(text, self.domid, special=special, limit=limit or ABS_PATH_MAX)

    def watch(self, text: str, token: bytes, depth: int = UNLIMITED) -> Watch:
        """Watch the path `text`; fires once as soon as the request is answered.

        Raises XenstoreError: EINVAL, EEXIST, ENOSPC.
        """
        path = self.path(text, special=True)
        if (path, token) in self._watches:
            raise XenstoreError(errno.EEXIST)
        if not self.domain.allows("watches", self.domain.watches + 1):
            raise XenstoreError(errno.ENOSPC)
        prefix = 0 if text[0] in "/@" else len(home(self.domid)) + 1
        watch = Watch(path, token, self.domain, self._deliver, depth, prefix)
        self._watches[path, token] = watch
        self.state.watches.add(watch)
        self.domain.watches += 1
        self.domain.memory += len(path) + len(token)
        self.state.defer(lambda: self._deliver(watch, path))
        return watch

    def unwatch(self, text: str, token: bytes) -> None:
        """End a watch; raises XenstoreError(ENOENT) where there is no such."""
        watch = self._watches.pop((self.path(text, special=True), token), None)
        if watch is None:
            raise XenstoreError(errno.ENOENT)
        self._forget(watch)

    def start_transaction(self) -> int:
        """Begin a transaction and return its id; raises XenstoreError(ENOSPC)."""
        if not self.domain.allows("transactions", self.domain.transactions + 1):
            raise XenstoreError(errno.ENOSPC)
        number = self._last_transaction
        while number == 0 or number in self._transactions:
            number = (number + 1) & 0xFFFFFFFF
        self._last_transaction = (number + 1) & 0xFFFFFFFF
        self._transactions[number] = Transaction(self.state, self.domid)
        self.domain.transactions += 1
        return number

    def transaction(self, number: int) -> Transaction:
        """The transaction with that id; raises XenstoreError(ENOENT)."""
        try:
            return self._transactions[number]
        except KeyError:
            raise XenstoreError(errno.ENOENT) from None

    def end_transaction(self, number: int, *, commit: bool) -> None:
        """End a transaction, which is then no more whatever happens; raises as commit()."""
        transaction = self.transaction(number)
        del self._transactions[number]
        self.domain.transactions -= 1
        if commit:
            transaction.commit()

    def reset(self) -> None:
        """End all watches and drop all transactions."""
        for watch in self._watches.values():
            self._forget(watch)
        self._watches.clear()
        self.domain.transactions -= len(self._transactions)
        self._transactions.clear()

    def _forget(self, watch: Watch) -> None:
        self.state.watches.remove(watch)
        self.domain.watches -= 1
        self.domain.memory -= len(watch.path) + len(watch.token)
