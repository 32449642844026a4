from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from uuid import UUID

import click
import pytest

from kvmxen import __version__
from kvmxen.cli import main
from kvmxen.cli.main import kvmxen as group
from kvmxen.cli.stats import Stats
from kvmxen.config import Config, ConsoleSpec
from kvmxen.errors import KvmxenError

KVMXEN = [sys.executable, "-m", "kvmxen"]
# Each takes tens of milliseconds to import, or opens things that --help does not need.
HEAVY = {
    "construct",
    "elftools",
    "rich",
    "ctypes",
    "lz4",
    "zstandard",
    "asyncio",
    "kvmxen.kvm.ioctl",
}


class Booted:
    """Stands in for kvmxen.cli.foreground: records the configurations, and does what `outcome`
    says."""

    def __init__(self) -> None:
        self.configs: list[Config] = []
        self.timeout: float | None = None
        self.patience: float | None = None
        self.stats: Stats | None = None
        self.paused = False
        self.result: Path | None = None
        self.outcome: int | BaseException = 0

    def boot(
        self,
        config: Config,
        *,
        timeout: float | None,
        patience: float | None,
        stats: Stats | None,
        paused: bool,
        ready: object,
        result: Path | None,
    ) -> int:
        self.configs.append(config)
        self.paused, self.result = paused, result
        self.timeout, self.patience, self.stats = timeout, patience, stats
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> Booted:
    stand_in = Booted()
    module = types.ModuleType("kvmxen.cli.foreground")
    module.boot = stand_in.boot  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kvmxen.cli.foreground", module)
    return stand_in


def test_no_option(booted: Booted) -> None:
    assert main(["boot"]) == 0
    (config,) = booted.configs
    assert config == Config(name=config.name)
    assert config.name.startswith("domain-")


def test_every_option(booted: Booted) -> None:
    arguments = (
        "boot vmlinuz --ramdisk rd --cmdline quiet --name web --memory 64 --vcpus 4 "
        "--console file:log --timeout 1.5 --on-reboot destroy --on-crash preserve "
        "--on-poweroff restart --shutdown-timeout 9 --paused --result r.xml "
        "--uuid 12345678-1234-1234-1234-123456789abc --stats=json --xenstore kept --debug"
    )
    assert main(arguments.split()) == 0
    assert booted.configs == [
        Config(
            kernel=Path("vmlinuz"),
            ramdisk=Path("rd"),
            cmdline="quiet",
            name="web",
            memory=64 << 20,
            vcpus=4,
            console=ConsoleSpec("file", Path("log")),
            uuid=UUID("12345678-1234-1234-1234-123456789abc"),
            on_poweroff="restart",
            on_reboot="destroy",
            on_crash="preserve",
            xenstore=Path("kept"),
            debug=True,
        )
    ]
    assert (booted.timeout, booted.patience, booted.paused) == (1.5, 9, True)
    assert booted.result == Path("r.xml")
    assert vars(booted.stats) == vars(Stats("json"))


@pytest.mark.parametrize("arguments", [["--stats", "vmlinuz"], ["vmlinuz", "--stats"]])
def test_stats_takes_no_word_of_its_own(booted: Booted, arguments: list[str]) -> None:
    assert main(["boot", *arguments, "--shell"]) == 0
    (config,) = booted.configs
    assert (config.kernel, config.shell) == (Path("vmlinuz"), True)
    assert vars(booted.stats) == vars(Stats("text"))


def test_stats_in_a_file(booted: Booted) -> None:
    assert main(["boot", "--stats=json:a:b"]) == 0
    assert vars(booted.stats) == vars(Stats("json", Path("a:b")))


@pytest.mark.parametrize("status", [0, 1, 3, 4, 5, 130])
def test_the_outcomes_status_is_ours(booted: Booted, status: int) -> None:
    booted.outcome = status
    assert main(["boot"]) == status


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "missing command (see kvmxen --help)"),
        ("start", "no such command 'start'"),
        ("--foo", "no such option"),
        ("boot --foo", "no such option"),
        ("boot --kernel k", "no such option '--kernel': the kernel comes without an option"),
        ("boot -kernel k", "no such option '-kernel': the kernel comes without an option"),
        ("boot --kernel=k -m 5", "no such option '--kernel': the kernel comes without"),
        ("boot k --initrd=rd", "no such option '--initrd': --ramdisk is meant"),
        ("boot k -initrd rd", "no such option '-initrd': --ramdisk is meant"),
        ("boot k --append quiet", "no such option '--append': --cmdline is meant"),
        ("boot k -m 512", "no such option '-m': --memory is meant"),
        ("boot k -c 2", "no such option '-c': --vcpus is meant"),
        ("boot k -smp 2", "no such option '-smp': --vcpus is meant"),
        ("boot k --smp 2", "no such option '--smp': --vcpus is meant"),
        ("boot k -hda disk", "no such option '-hda': --disk is meant"),
        ("boot k -nographic", "no such option '-nographic': --console is meant"),
        ("boot k --cmdline --append --initrd rd", "no such option '--initrd': --ramdisk is"),
        ("boot k --tiemout 5", "no such option '--tiemout'. Did you mean '--timeout'?"),
        ("boot k --memroy 5", "no such option '--memroy'. (Did you mean one of: '--maxmem', '--me"),
        ("boot a b", "got unexpected extra argument (b) (see kvmxen boot --help)"),
        ("boot --memory", "option '--memory' requires an argument"),
        ("boot --vcpus x", "invalid value for '--vcpus'"),
        ("boot --vcpus 0", "--vcpus must be 1 to 64, not 0"),
        ("boot --vcpus 1000", "--vcpus must be 1 to 64, not 1000"),
        ("boot --memory 1M", "--memory 1 MiB is too small"),
        ("boot --memory lots", "'lots' is not a memory size"),
        ("boot --timeout never", "invalid value for '--timeout'"),
        ("boot --timeout nan", "--timeout must be more than 0 seconds, not nan"),
        ("boot --timeout inf", "--timeout must be more than 0 seconds, not inf"),
        ("boot --timeout 0", "--timeout must be more than 0 seconds, not 0"),
        ("boot --timeout -1", "--timeout must be more than 0 seconds, not -1"),
        ("boot --memory 64 --maxmem 32", "--maxmem 32 MiB is less than --memory: give at"),
        ("boot k --modules m", "--modules is for the ramdisk of --shell: give that too"),
        ("boot --on-reboot wait", "invalid value for '--on-reboot'"),
        ("boot --stats=xml", "invalid value for '--stats'"),
        ("boot --stats=", "invalid value for '--stats'"),
        ("boot --stats=json:", "invalid value for '--stats'"),
        ("boot --stats=text:file", "invalid value for '--stats'"),
        ("boot --console screen", "unknown console 'screen'"),
        ("boot --shell", "--shell needs a kernel"),
        ("boot --name a/b", "'a/b' cannot name a domain"),
    ],
)
def test_usage_errors_are_one_line(
    booted: Booted, capsys: pytest.CaptureFixture[str], arguments: str, sentence: str
) -> None:
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kvmxen: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert booted.configs == []


def test_an_error_of_kvmxen(booted: Booted, capsys: pytest.CaptureFixture[str]) -> None:
    booted.outcome = KvmxenError("there is no /dev/kvm:\nload a KVM module")
    assert main(["boot"]) == 1
    assert capsys.readouterr().err == "kvmxen: there is no /dev/kvm: load a KVM module\n"


def test_interrupted(booted: Booted, capsys: pytest.CaptureFixture[str]) -> None:
    booted.outcome = KeyboardInterrupt()
    assert main(["boot"]) == 130
    assert capsys.readouterr().err.strip() == "kvmxen: interrupted"


def test_a_fault_of_ours(booted: Booted, capsys: pytest.CaptureFixture[str]) -> None:
    booted.outcome = ValueError("odd")
    assert main(["boot"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(
        "kvmxen: internal error: ValueError: odd; please report it, with the output of --debug"
    )
    assert err.count("\n") == 1
    assert main(["boot", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_shortage_is_no_fault_of_ours(booted: Booted, capsys: pytest.CaptureFixture[str]) -> None:
    booted.outcome = OSError(24, "Too many open files", "/dev/kvm")
    assert main(["boot"]) == 1
    assert capsys.readouterr().err == (
        "kvmxen: this process cannot open more files: raise the limit (ulimit -n)\n"
    )


def test_every_command_goes_by_its_name() -> None:
    context = click.Context(group)
    names = group.list_commands(context)
    commands = [group.get_command(context, name) for name in names]
    assert [command.name for command in commands if command] == names
    assert len(names) > 9


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kvmxen {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["boot", "--help"]])
def test_help_gives_the_statuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for line in (
        "0  the guest powered off",
        "3  the guest crashed",
        "5  the guest rebooted",
        "130  interrupted",
    ):
        assert line in out


def modules_of(*arguments: str) -> set[str]:
    """The modules that the command line imports for `arguments`."""
    program = (
        f"import sys; from kvmxen.cli import main; status = main({list(arguments)})\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr); sys.exit(status)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stderr.split())


def test_the_help_of_a_boot_imports_nothing_heavy() -> None:
    modules = modules_of("boot", "--help")
    assert "kvmxen.cli.boot" in modules
    assert modules & HEAVY == set()


def test_the_list_of_commands_imports_none_of_them() -> None:
    ours = {name for name in modules_of("--help") if name.startswith("kvmxen")}
    assert ours == {
        *("kvmxen", "kvmxen.cli", "kvmxen.cli.main", "kvmxen.cli.status"),
        *("kvmxen.errors", "kvmxen.streams"),
    }


def test_reader_that_leaves() -> None:
    program = (
        "import sys; from kvmxen.cli import main; sys.stdin.read()\nsys.exit(main(['--help']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_the_module_runs() -> None:
    run = subprocess.run([*KVMXEN, "boot", "--vcpus", "0"], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "kvmxen: --vcpus must be 1 to 64, not 0\n"
