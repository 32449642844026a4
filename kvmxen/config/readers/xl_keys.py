"""The keys of xl's configuration files (xl.cfg(5)), by what kvmxen does with them.

Those that xl.py reads stand there.
"""

from __future__ import annotations

# These change what a guest gets, so they are refused, unless the value asks for nothing.
REFUSED: dict[str, frozenset[str]] = {
    key: frozenset({"", "0", *harmless.split()})
    for key, harmless in {
        "blkdev_start": "xvda",
        "bootloader_args": "",
        "cap": "",
        "channel": "",
        "cpu_weight": "256",
        "cpuid": "host",
        "cpus": "all",
        "cpus_soft": "all",
        "device_tree": "",
        "driver_domain": "",
        "e820_host": "",
        "init_seclabel": "",
        "iomem": "",
        "ioports": "",
        "irqs": "",
        "max_event_channels": "",
        "max_grant_frames": "",
        "max_grant_version": "2",
        "max_maptrack_frames": "",
        "nodes": "",
        "nomigrate": "",
        "nr_spis": "",
        "on_soft_reset": "restart destroy soft-reset",
        "on_watchdog": "destroy",
        "p9": "",
        "passthrough": "disabled",
        "pci": "",
        "pool": "Pool-0",
        "pvcalls": "",
        "seclabel": "",
        "tsc_mode": "default native",
        "usbctrl": "",
        "usbdev": "",
        "vdispl": "",
        "vfb": "",
        "virtio": "",
        "vkb": "",
        "vnuma": "",
        "vsnd": "",
        "vtpm": "",
        "xend_suspend_evtchn_compat": "",
    }.items()
}

# These have no meaning for a PV guest here, so nothing is lost without them.
_DROPPED_KEYS = """
    acpi acpi_firmware acpi_s3 acpi_s4 altp2m apic bios bios_path_override boot cmos_path
    claim_mode cpuid_override device_model device_model_args device_model_args_hvm
    device_model_args_pv device_model_override device_model_stubdomain_override
    device_model_stubdomain_seclabel device_model_user device_model_version dm_restrict
    firmware firmware_override floppy gfx_passthru hap hdtype hpet hvm keymap localtime
    mca_caps mmio_hole ms_vm_genid msitranslate nestedhvm nographic nx oos opengl pae parallel
    pci_msitranslate pci_permissive pci_power_mgmt pci_seize rdm rdm_mem_boundary
    rtc_timeoffset sdl serial shadow_memory soundhw spice spiceagent_mouse
    spicedisable_ticketing spicehost spicepasswd spiceport spicetls_port spiceusbredirection
    spicevdagent stdvga suppress_spurious_page_faults system_firmware timer_mode trusted_tcb
    usb usbdevice usbversion vendor_device vga videoram viridian vm_genid vnc vncconsole
    vncdisplay vnclisten vncpasswd vncunused vpt_align xen_platform_pci xauthority display
"""
DROPPED = frozenset(_DROPPED_KEYS.split())
