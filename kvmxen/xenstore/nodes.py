"""The nodes that a PV domain finds when it starts, at the paths that xl uses.

Layout and permissions: tools/libs/light/libxl_create.c (libxl__domain_make), libxl_dom.c
(libxl__build_post), libxl_console.c and libxl_device.c; docs/misc/xenstore-paths.pandoc.
"""

from __future__ import annotations

from kvmxen.xenstore.paths import home
from kvmxen.xenstore.permissions import DOM0, READ, Permission
from kvmxen.xenstore.store import Store

CONSOLE_LIMIT = 1 << 20
_INITIALISING = 1  # XenbusStateInitialising, xen/include/public/io/xenbus.h

# All other nodes inherit from the domain's own node, which the guest can only read.
_GUEST_OWNS = (
    "device/suspend/event-channel",
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
)


def of_one_run(domid: int) -> tuple[str, ...]:
    """The nodes that each run of domain `domid` creates anew, with all below: its own, its
    devices'."""
    return home(domid), "/vm", f"{home(DOM0)}/backend", f"{home(DOM0)}/error"


def populate(
    store: Store,
    *,
    domid: int,
    name: str,
    uuid: str,
    memory_kib: int,
    max_memory_kib: int,
    vcpus: int,
    max_vcpus: int,
    console_mfn: int,
    console_port: int,
    store_mfn: int,
    store_port: int,
    console_tty: str = "",
) -> None:
    """Replace the nodes of domain `domid`, and introduce it.

    The mfns are machine frames, the ports the guest's ends of its two event channels,
    `console_tty` the path of the console's pty.
    """
    reads = (Permission(DOM0), Permission(domid, READ))
    owns = (Permission(domid),)
    here = home(domid)
    vm = f"/vm/{uuid}"
    backend = f"{home(DOM0)}/backend/console/{domid}/0"

    def make(path: str, *permissions: Permission) -> None:
        store.mkdir(path)
        store.set_permissions(path, *permissions)

    def write(base: str, values: dict[str, object]) -> None:
        for key, value in values.items():
            store.write(f"{base}/{key}", str(value).encode())

    write(home(DOM0), {"name": "Domain-0", "domid": DOM0})
    # There is only one domain, so the nodes of earlier ones are useless.
    for path in of_one_run(domid):
        if store.state.get(path):
            store.rm(path)
    for path in (here, vm, backend):
        make(path, *reads)
    for key in _GUEST_OWNS:
        make(f"{here}/{key}", *owns)

    write(vm, {"uuid": uuid, "name": name, "image/ostype": "linux"})
    write(
        here,
        {
            "vm": vm,
            "name": name,
            "domid": domid,
            "memory/static-max": max_memory_kib,
            "memory/target": memory_kib,
            "memory/videoram": 0,
            "control/platform-feature-multiprocessor-suspend": 1,
            "control/platform-feature-xs_reset_watches": 1,
            "store/port": store_port,
            "store/ring-ref": store_mfn,
            "console/backend": backend,
            "console/backend-id": DOM0,
            "console/limit": CONSOLE_LIMIT,
            "console/type": "xenconsoled",
            "console/output": "pty",
            "console/tty": console_tty,
            "console/port": console_port,
            "console/ring-ref": console_mfn,
        },
    )
    for vcpu in range(max_vcpus):
        state = "online" if vcpu < vcpus else "offline"
        write(f"{here}/cpu", {f"{vcpu}/availability": state})
    write(
        backend,
        {
            "frontend": f"{here}/console",
            "frontend-id": domid,
            "online": 1,
            "state": _INITIALISING,
            "protocol": "vt100",
        },
    )
    store.state.introduce(domid)
