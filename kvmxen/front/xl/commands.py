"""The commands of xl, and those that it has and kvmxen lacks."""

from __future__ import annotations

from importlib import import_module

import click

from kvmxen.errors import KvmxenError

_COMMANDS = {
    "block-attach": ("change", "Attach a disk."),
    "block-detach": ("change", "Detach a disk."),
    "block-list": ("show", "List the disks of domains."),
    "console": ("change", "Go to a domain's console."),
    "create": ("change", "Start a domain from its file."),
    "destroy": ("change", "End a domain at once."),
    "domid": ("show", "Print the id of a domain."),
    "domname": ("show", "Print the name of a domain."),
    "info": ("show", "Print what this host has."),
    "list": ("show", "List the domains."),
    "mem-set": ("change", "Have a guest grow or shrink."),
    "network-attach": ("change", "Attach a network interface."),
    "network-detach": ("change", "Detach a network interface."),
    "network-list": ("show", "List the network interfaces of domains."),
    "pause": ("change", "Stop the vCPUs of a domain."),
    "reboot": ("change", "Ask guests to reboot."),
    "shutdown": ("change", "Ask guests to power off."),
    "sysrq": ("change", "Press a magic SysRq key in a Linux guest."),
    "trigger": ("change", "Send a guest a non-maskable interrupt."),
    "unpause": ("change", "Let the vCPUs of a domain run again."),
    "uptime": ("show", "Print how long domains have been running."),
    "vcpu-list": ("show", "List the vCPUs of domains."),
    "vcpu-set": ("change", "Have a guest use more or fewer vCPUs."),
    "vm-list": ("show", "List the UUIDs, ids and names of domains."),
}
_MISSING_COMMANDS = """
    button-press cd-eject cd-insert channel-list claims config-update cpupool-cpu-add
    cpupool-cpu-remove cpupool-create cpupool-destroy cpupool-list cpupool-migrate
    cpupool-numa-split cpupool-rename debug-keys devd dmesg domain dump-core getenforce
    loadpolicy mem-max migrate migrate-receive pci-assignable-add pci-assignable-list
    pci-assignable-remove pci-attach pci-detach pci-list qemu-monitor-command remus rename
    restore save sched-credit sched-credit2 sched-null sched-rtds set-parameters setenforce
    sharing suspend-to-ram top usb-list usbctrl-attach usbctrl-detach usbdev-attach
    usbdev-detach vcpu-pin vncviewer vtpm-attach vtpm-detach vtpm-list
"""
_MISSING = frozenset(_MISSING_COMMANDS.split())


class _Commands(click.Group):
    """The commands, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in _MISSING:
            raise KvmxenError(
                f"xl's command {name} is missing here: xl --help lists those that work"
            )
        if name not in _COMMANDS:
            return None
        module = vars(import_module(f"kvmxen.front.xl.{_COMMANDS[name][0]}"))
        function = name.replace("-", "_")
        # A name that Python itself uses is followed by an underscore.
        command: click.Command = module.get(f"{function}_") or module[function]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])


@click.group(
    cls=_Commands, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("-v", "verbose", is_flag=True, help="Accepted for scripts' sake, as are -f and -t.")
@click.option("-f", "force", is_flag=True, hidden=True)
@click.option("-t", "-T", "progress", is_flag=True, hidden=True)
def xl(verbose: bool, force: bool, progress: bool) -> None:
    """Xen's command line for the domains of kvmxen."""
