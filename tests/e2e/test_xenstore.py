"""A Debian guest's /dev/xen/xenbus and the host's side of the same store, in one boot.

The guest runs Debian's xenstore-utils, with the libraries that they need; the host runs `kvmxen
xenstore`, and the same tools through the socket.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import packages
from tests.e2e.domain import PATIENCE, ROOT, Boot, Domain, Ramdisk
from tests.xen_tools import Programs, utils_libraries, xen_programs

TOOLS = ("chmod", "exists", "list", "ls", "read", "rm", "watch", "write")

# `ask OPERATION ID` sends /tmp/payload in the transaction of that id on the connection that is
# descriptor 3, and prints the reply's payload, with a dot for each NUL. Numbers are those of
# xen/include/public/io/xs_wire.h. `heard` waits for a line from the host.
SCRIPT = r"""
mkdir -p /lib64
ln -s /bin/ld-linux-x86-64.so.2 /lib64/
export LD_LIBRARY_PATH=/bin

number() {
    printf "\\$(printf %03o $(($1 & 255)))\\$(printf %03o $(($1 >> 8 & 255)))\\000\\000"
}
ask() {
    {
        number $1; number 7; number $2; number $(wc -c </tmp/payload)
        cat /tmp/payload
    } >/tmp/request
    cat /tmp/request >&3
    dd bs=4112 count=1 <&3 2>/dev/null | tail -c +17 | tr '\0' .
    echo
}
heard() { until xenstore-exists data/$1; do sleep 0.1; done; }

echo "[own] $(xenstore-read name) $(xenstore-read /local/domain/1/domid)"
xenstore-write data/greeting 'from the guest'
xenstore-write data/a 1 data/b 2 && xenstore-list data
xenstore-write data/a 3 name stolen; echo "[all or nothing] $? $(xenstore-read data/a)"
xenstore-chmod name n1
xenstore-read /local/domain/0/name
xenstore-chmod data/a n1 r2 r3 r4 r5 r6
xenstore-ls -p data
xenstore-rm data/a data/b; xenstore-exists data/a; echo "[gone] $?"
echo "[tools done]"

xenstore-watch -n 3 data/from-host | while read path; do
    echo "[changed] $path $(xenstore-read $path 2>/dev/null)"
done &
heard listening
xenstore-write data/from-guest 'hello host'
wait
echo "[watches done]"

exec 3<>/dev/xen/xenbus
printf '\0' >/tmp/payload; start=$(ask 6 0)
printf 'data/contested\0mine' >/tmp/payload; echo "[write] $(ask 11 ${start%.})"
echo "[started]"
heard contested
printf 'T\0' >/tmp/payload; echo "[commit] $(ask 7 ${start%.})"
printf 'data/contested\0' >/tmp/payload; echo "[read] $(ask 2 0)"
printf '\0' >/tmp/payload; start=$(ask 6 0)
printf 'data/contested\0mine' >/tmp/payload; ask 11 ${start%.} >/dev/null
printf 'T\0' >/tmp/payload; echo "[commit again] $(ask 7 ${start%.})"
xenstore-read data/contested
echo "[transactions done]"

printf 'data/big\0' >/tmp/payload; head -c 2100 /dev/zero >>/tmp/payload
echo "[size] $(ask 11 0)"
printf 'data/a/b/c/d\0n1\0r2\0r3\0r4\0r5\0r6\0' >/tmp/payload
echo "[permissions] $(ask 14 0)"
printf 'name\0stolen' >/tmp/payload
echo "[not mine] $(ask 11 0)"
n=0
while [ $n -lt 11 ]; do
    printf '\0' >/tmp/payload; reply=$(ask 6 0); n=$((n + 1))
done
echo "[transactions] $n $reply"
exec 3>&-
xenstore-write $(for n in $(seq 1 950); do echo data/many/$((n / 100))/$n x; done)
n=0
while xenstore-write data/some/$n x 2>/dev/null; do n=$((n + 1)); done
exec 3<>/dev/xen/xenbus
printf "data/some/$n\0" >/tmp/payload; echo "[nodes] $n $(ask 11 0)"
xenstore-rm data/many
printf 'data/some\0' >/tmp/payload; echo "[room again] $(ask 11 0)"
echo "[quotas done]"
poweroff -f
"""


@pytest.fixture
def tools() -> Programs:
    try:
        return xen_programs()
    except packages.Unavailable as error:
        pytest.skip(f"needs Debian's xenstore-utils: {error}")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kvmxen", "xenstore", *arguments]


def run(environment: dict[str, str], *arguments: str) -> str:
    """The output of `kvmxen xenstore`, which must succeed."""
    done = subprocess.run(
        command(*arguments), cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_both_sides(
    boot: Boot,
    debian_kernel: Callable[[str], Path],
    ramdisk: Ramdisk,
    tools: Programs,
    environment: dict[str, str],
) -> None:
    programs = [tools.paths[f"xenstore-{name}"] for name in TOOLS]
    image = ramdisk(SCRIPT, *programs, *utils_libraries())
    options = ("--name", "web", "--cmdline", "console=hvc0 quiet")
    domain = boot(debian_kernel("6.1"), "--ramdisk", image, *options)
    check_tools(domain)
    folder = Path(environment["KVMXEN_RUNTIME_DIR"]) / "web"
    seen = subprocess.run(
        [tools.paths["xenstore-read"], "/local/domain/1/data/greeting"],
        cwd=folder, env=tools.environment(XENSTORED_PATH="xenstore.sock"), capture_output=True,
        timeout=PATIENCE,
    )  # fmt: skip
    assert seen.stdout == b"from the guest\n"
    check_watches(domain, environment)
    check_transactions(domain, environment)
    check_quotas(domain)
    domain.ends(0)


def check_tools(domain: Domain) -> None:
    domain.expect(r"\[own\] web 1\n")
    domain.expect(r"greeting\na\nb\n")
    domain.expect(r"could not write path name\n\[all or nothing\] 1 1\n")
    domain.expect("'name': Permission denied\n")
    domain.expect("couldn't read path /local/domain/0/name\n")
    domain.expect("'data/a': No space left on device\n")
    domain.expect(r'greeting = "from the guest"[ .]+\(n1\)\na = "1"[ .]+\(n1\)\n')
    domain.expect(r"\[gone\] 1\n")
    domain.expect(r"\[tools done\]")


def check_watches(domain: Domain, environment: dict[str, str]) -> None:
    domain.expect(r"\[changed\] data/from-host \n")
    # The second path tells the guest that the host watches.
    with subprocess.Popen(
        command("watch", "-n", "2", "web", "data/from-guest"),
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    ) as watch:  # fmt: skip
        try:
            assert watch.stdout
            assert watch.stdout.readline() == "/local/domain/1/data/from-guest\n"
            run(environment, "write", "web", "data/from-host", "hello", "data/listening", "1")
            domain.expect(r"\[changed\] data/from-host hello\n")
            assert watch.stdout.readline() == "/local/domain/1/data/from-guest\n"
            assert watch.wait(PATIENCE) == 0
        finally:
            watch.kill()
    assert run(environment, "read", "web", "data/from-guest") == "hello host\n"
    run(environment, "rm", "web", "data/from-host")
    domain.expect(r"\[changed\] data/from-host \n")
    domain.expect(r"\[watches done\]")


def check_transactions(domain: Domain, environment: dict[str, str]) -> None:
    domain.expect(r"\[write\] OK\.\n")
    domain.expect(r"\[started\]")
    run(environment, "write", "web", "data/contested", "theirs")
    domain.expect(r"\[commit\] EAGAIN\.\n\[read\] theirs\n")
    domain.expect(r"\[commit again\] OK\.\nmine\n")
    domain.expect(r"\[transactions done\]")


def check_quotas(domain: Domain) -> None:
    for what, error in {
        "size": "ENOSPC",
        "permissions": "ENOSPC",
        "not mine": "EACCES",
        "transactions": "ENOSPC",
        "nodes": "ENOSPC",
        "room again": "OK",
    }.items():
        assert domain.expect(rf"\[{what}\] (?:\d+ )?([A-Z]+)\.\n")[1] == error
    domain.expect(r"\[quotas done\]")
