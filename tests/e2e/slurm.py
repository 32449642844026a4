"""A Slurm cluster of three nodes, all of them this machine, with daemons and keys of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.domain import PATIENCE
from tests.e2e.network.servers import free_port

NODES = ("n1", "n2", "n3")
_DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")


class Slurm:
    """Three slurmd, a slurmctld and a munged in `folder`; skips if there are no such programs."""

    def __init__(self, folder: Path) -> None:
        missing = [name for name in _DAEMONS if shutil.which(name, path=_PATH) is None]
        if missing:
            pytest.skip(f"needs {', '.join(missing)} (Debian's slurm-wlm)")
        if os.geteuid() != 0:
            pytest.skip("needs root, for slurmd")
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH}
        self._daemons = list[subprocess.Popen[bytes]]()
        folder.mkdir(mode=0o755)
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        (folder / "slurm.conf").write_text(self._configuration())
        files = {name: folder / f"munge.{name}" for name in ("socket", "pid-file", "log-file")}
        self._start(
            "munged", "--foreground", "--force", f"--key-file={folder / 'key'}",
            f"--seed-file={folder / 'seed'}", *(f"--{name}={path}" for name, path in files.items()),
        )  # fmt: skip
        self._start("slurmctld", "-D", "-c")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        self._wait(lambda: self.run("sinfo", "-h", "-o", "%D %T").strip() == "3 idle")

    def close(self) -> None:
        """End the daemons, and the jobs with them."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(PATIENCE)

    def run(self, *command: str | Path, **more: str) -> str:
        """The output of one of Slurm's commands; `more` is for its environment."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return done.stdout

    def wait_until_empty(self) -> None:
        """Wait until the queue has no job."""
        self._wait(lambda: self.run("squeue", "-h") == "")

    def _wait(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, self.run("sinfo") + self.run("squeue")
            time.sleep(0.2)

    def _start(self, *command: str) -> None:
        log = (self.folder / f"{command[0]}-{len(self._daemons)}.log").open("wb")
        with log:
            self._daemons.append(
                subprocess.Popen(
                    command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )

    def _configuration(self) -> str:
        host, folder = socket.gethostname().partition(".")[0], self.folder
        nodes = "".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} "
            "CPUs=2 RealMemory=4000\n"
            for node in NODES
        )
        return f"""
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=60
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP
"""


_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
