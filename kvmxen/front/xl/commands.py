"""The commands of xl, and those that it has and kvmxen lacks."""

from __future__ import annotations

COMMANDS = {
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
_WORDS = """
    button-press cd-eject cd-insert channel-list claims config-update cpupool-cpu-add
    cpupool-cpu-remove cpupool-create cpupool-destroy cpupool-list cpupool-migrate
    cpupool-numa-split cpupool-rename debug-keys devd dmesg domain dump-core getenforce
    loadpolicy mem-max migrate migrate-receive pci-assignable-add pci-assignable-list
    pci-assignable-remove pci-attach pci-detach pci-list qemu-monitor-command remus rename
    restore save sched-credit sched-credit2 sched-null sched-rtds set-parameters setenforce
    sharing suspend-to-ram top usb-list usbctrl-attach usbctrl-detach usbdev-attach
    usbdev-detach vcpu-pin vncviewer vtpm-attach vtpm-detach vtpm-list
"""
MISSING = frozenset(_WORDS.split())
