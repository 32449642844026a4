"""CONTROL: the commands of xenstore-control (tools/xenstored/control.c).

It supports the commands of a xenstored without a log that opens no files; live-update and those
that write a file (logfile, memreport, print) do not exist here.
"""

from __future__ import annotations

import errno
from collections import Counter

from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.quota import QUOTA_NAMES, node_memory
from kvmxen.xenstore.request import Request, number
from kvmxen.xenstore.state import INTRODUCE, RELEASE, State

_OK = b"OK\0"
_SOFT = "soft-"
_MEANINGS = {
    "nodes": "Nodes per domain",
    "watches": "Watches per domain",
    "outstanding": "Outstanding requests per domain",
    "memory": "Total Xenstore memory per domain",
    "transactions": "Active transactions per domain",
    "transaction-nodes": "Max. number of accessed nodes per transaction",
    "node-permissions": "Max. number of permissions per node",
    "path-max": "Max. length of a node path",
    "node-size": "Max. size of a node",
}


def control(request: Request) -> bytes:
    """Find the command in one table; EINVAL if there is none."""
    strings = request.strings
    if not strings or strings[0] not in _COMMANDS:
        raise XenstoreError(errno.EINVAL)
    handler, _ = _COMMANDS[strings[0]]
    return handler(request.session.state, strings[1:])


def inconsistencies(state: State) -> list[str]:
    """The inconsistencies in the accounts of `state`, a sentence each; there should be none."""
    nodes: Counter[int] = Counter()
    memory: Counter[int] = Counter()
    wrong = []
    for root in ("/", INTRODUCE, RELEASE):
        for path, node in state.walk(root):
            nodes[node.owner] += 1
            memory[node.owner] += node_memory(path, node)
            if len(node.listing) != node.listing_size:
                wrong.append(f"{path} has a listing of {node.listing_size} bytes")
    for domid, domain in state.domains.items():
        if domain.nodes != nodes[domid]:
            wrong.append(f"domain {domid} is held to own {domain.nodes} nodes, not {nodes[domid]}")
        if domain.memory < memory[domid]:
            wrong.append(f"domain {domid} is held to use {domain.memory} bytes")
    return wrong + [f"domain {domid} is not known" for domid in nodes.keys() - state.domains.keys()]


def _check(state: State, arguments: list[str]) -> bytes:
    if arguments:
        raise XenstoreError(errno.EINVAL)
    return ("\n".join(inconsistencies(state)) or "OK").encode() + b"\0"


def _log(_state: State, arguments: list[str]) -> bytes:
    """As in Xen without a log file: there is nothing to switch."""
    if arguments not in (["on"], ["off"]):
        raise XenstoreError(errno.EINVAL)
    return _OK


def _help(_state: State, arguments: list[str]) -> bytes:
    if arguments:
        raise XenstoreError(errno.EINVAL)
    lines = [f"{name:<15} {usage}\n" for name, (_, usage) in _COMMANDS.items()]
    return "".join(lines).encode() + b"\0"


def _quota(state: State, arguments: list[str]) -> bytes:
    match arguments:
        case []:
            return _limits(state, soft=False)
        case ["set", *rest]:
            return _set(state, rest, soft=False)
        case ["max"]:
            return _peaks(state)
        case ["max", "-r"]:
            state.peaks.clear()
            for domain in state.domains.values():
                domain.peaks.clear()
            return _peaks(state)
        case ["max", *_]:
            raise XenstoreError(errno.EINVAL)
        case [domid]:
            return _usage(state, number(domid))
    raise XenstoreError(errno.EINVAL)


def _soft_quota(state: State, arguments: list[str]) -> bytes:
    match arguments:
        case []:
            return _limits(state, soft=True)
        case ["set", *rest]:
            return _set(state, rest, soft=True)
    raise XenstoreError(errno.EINVAL)


def _limits(state: State, *, soft: bool) -> bytes:
    text = "Quota settings:\n"
    for name in QUOTA_NAMES:
        if name.startswith(_SOFT) == soft:
            short = name.removeprefix(_SOFT)
            text += f"{short:<17}: {state.quota.limit(name):8} {_MEANINGS[short]}\n"
    return text.encode() + b"\0"


def _set(state: State, arguments: list[str], *, soft: bool) -> bytes:
    if len(arguments) != 2 or number(arguments[1]) < 1:
        raise XenstoreError(errno.EINVAL)
    name = _SOFT * soft + arguments[0]
    if name not in QUOTA_NAMES or name.startswith(_SOFT) != soft:
        raise XenstoreError(errno.EINVAL)
    state.quota = state.quota.with_limit(name, number(arguments[1]))
    return _OK


def _usage(state: State, domid: int) -> bytes:
    domain = state.domains.get(domid)
    if domain is None:
        raise XenstoreError(errno.ENOENT)
    text = f"Domain {domid}:\n"
    for name in _MEANINGS:
        what = name.replace("-", "_")
        used = getattr(domain, what, 0)
        text += f"{name:<17}: {used:8} (max {max(used, domain.peaks.get(what, 0)):8})\n"
    return text.encode() + b"\0"


def _peaks(state: State) -> bytes:
    text = "Max. seen accounting values:\n"
    for name in _MEANINGS:
        text += f"{name:<17}: {state.peaks.get(name.replace('-', '_'), 0):8}\n"
    return text.encode() + b"\0"


_COMMANDS = {
    "check": (_check, ""),
    "log": (_log, "[on|off]"),
    "quota": (_quota, "[set <name> <val>|<domid>|max [-r]]"),
    "quota-soft": (_soft_quota, "[set <name> <val>]"),
    "help": (_help, ""),
}
