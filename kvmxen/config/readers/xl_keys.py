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
        "dtdev": "",
        "e820_host": "",
        "extratime": "",
        "init_seclabel": "",
        "iomem": "",
        "ioports": "",
        "irqs": "",
        "latency": "",
        "llc_colors": "",
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
        "period": "",
        "pool": "Pool-0",
        "pvcalls": "",
        "pvshim": "",
        "seclabel": "",
        "slice": "",
        "tsc_mode": "default native",
        "usbctrl": "",
        "usbdev": "",
        "vdispl": "",
        "vfb": "",
        "vif2": "",
        "virtio": "",
        "vkb": "",
        "vmtrace_buf_kb": "",
        "vnuma": "",
        "vpmu": "",
        "vsnd": "",
        "vtpm": "",
        "vuart": "",
        "xend_suspend_evtchn_compat": "",
        "xenstore_feature_mask": "",
        "xenstore_quota": "",
    }.items()
}

# These have no meaning for a PV guest here, so nothing is lost without them.
_DROPPED_KEYS = """
    acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2m_count altp2mhvm apic
    arm_sci bios bios_path_override boot bootloader_restrict bootloader_user claim_mode
    cmos_path cpuid_override device_model device_model_args device_model_args_hvm
    device_model_args_pv device_model_override device_model_stubdomain_override
    device_model_stubdomain_seclabel device_model_user device_model_version display dm_restrict
    firmware firmware_override floppy gfx_passthru gic_version hap hdtype hpet hvm hvm_pirq
    keymap localtime mca_caps mmio_hole ms_vm_genid msitranslate msr_relaxed nestedhvm nographic
    nx oos opengl pae parallel pci_msitranslate pci_permissive pci_power_mgmt pci_seize
    pvshim_cmdline pvshim_extra pvshim_path rdm rdm_mem_boundary rtc_timeoffset sdl serial
    shadow_memory smbios smbios_firmware soundhw spice spice_clipboard_sharing
    spice_image_compression spice_streaming_video spiceagent_mouse spicedisable_ticketing
    spicehost spicepasswd spiceport spicetls_port spiceusbredirection spicevdagent stdvga
    stubdomain_cmdline stubdomain_kernel stubdomain_memory stubdomain_ramdisk
    suppress_spurious_page_faults sve system_firmware tee timer_mode trap_unmapped_accesses
    trusted_tcb usb usbdevice usbversion vendor_device vga videoram viridian vkb_device vm_genid
    vnc vncconsole vncdisplay vnclisten vncpasswd vncunused vncviewer vpt_align xauthority
    xen_platform_pci xen_platform_pci_bar_uc
"""
DROPPED = frozenset(_DROPPED_KEYS.split())
