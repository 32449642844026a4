/* Xen's public ABI, as a 64-bit PV guest sees it: the numbers that the shim, our guests, Cython
 * (xen.pxd) and Python (xen.py) share, under Xen's names. Python reads each line "#define NAME
 * number": there are no other macros. Source: xen/include/public.
 */
#pragma once

/* Hypercalls, __HYPERVISOR_* there (xen.h). */
#define HYPERVISOR_set_trap_table 0
#define HYPERVISOR_mmu_update 1
#define HYPERVISOR_set_gdt 2
#define HYPERVISOR_stack_switch 3
#define HYPERVISOR_set_callbacks 4
#define HYPERVISOR_fpu_taskswitch 5
#define HYPERVISOR_sched_op_compat 6
#define HYPERVISOR_platform_op 7
#define HYPERVISOR_set_debugreg 8
#define HYPERVISOR_get_debugreg 9
#define HYPERVISOR_update_descriptor 10
#define HYPERVISOR_memory_op 12
#define HYPERVISOR_multicall 13
#define HYPERVISOR_update_va_mapping 14
#define HYPERVISOR_set_timer_op 15
#define HYPERVISOR_event_channel_op_compat 16
#define HYPERVISOR_xen_version 17
#define HYPERVISOR_console_io 18
#define HYPERVISOR_physdev_op_compat 19
#define HYPERVISOR_grant_table_op 20
#define HYPERVISOR_vm_assist 21
#define HYPERVISOR_update_va_mapping_otherdomain 22
#define HYPERVISOR_iret 23
#define HYPERVISOR_vcpu_op 24
#define HYPERVISOR_set_segment_base 25
#define HYPERVISOR_mmuext_op 26
#define HYPERVISOR_xsm_op 27
#define HYPERVISOR_nmi_op 28
#define HYPERVISOR_sched_op 29
#define HYPERVISOR_callback_op 30
#define HYPERVISOR_xenoprof_op 31
#define HYPERVISOR_event_channel_op 32
#define HYPERVISOR_physdev_op 33
#define HYPERVISOR_hvm_op 34
#define HYPERVISOR_sysctl 35
#define HYPERVISOR_domctl 36
#define HYPERVISOR_kexec_op 37
#define HYPERVISOR_tmem_op 38
#define HYPERVISOR_argo_op 39
#define HYPERVISOR_xenpmu_op 40
#define HYPERVISOR_dm_op 41
#define HYPERVISOR_hypfs_op 42
#define HYPERVISOR_mca 48

#define DOMID_SELF 0x7ff0

/* Of each L4 table, slots 256 to 271 are Xen's (xen/include/asm-x86/config.h). */
#define XEN_FIRST_SLOT 256
#define XEN_SLOTS 16
/* The first virtual address of these, and the first after them (arch-x86/xen-x86_64.h). The
 * machine-to-physical table is where they begin, unless the guest asks. */
#define HYPERVISOR_VIRT_START 0xffff800000000000
#define HYPERVISOR_VIRT_END 0xffff880000000000

/* The PAT that applies to the guest's page tables (xen/arch/x86/include/asm/x86-defns.h). */
#define XEN_PAT 0x0000050100070406

/* Selectors of the flat segments in the part of the GDT that is Xen's (arch-x86/xen-x86_64.h). */
#define FLAT_RING3_CS32 0xe023
#define FLAT_RING3_SS 0xe02b
#define FLAT_RING3_CS64 0xe033

/* The room in bytes for the kernel's command line in struct start_info (xen.h). */
#define MAX_GUEST_CMDLINE 1024

/* Offsets in bytes: in struct vcpu_info, and in struct shared_info (xen.h). */
#define VCPU_INFO_SIZE 64
#define VCPU_INFO_UPCALL_PENDING 0
#define VCPU_INFO_UPCALL_MASK 1
#define VCPU_INFO_PENDING_SEL 8
#define VCPU_INFO_CR2 16
#define VCPU_INFO_TIME 32
#define LEGACY_MAX_VCPUS 32
#define SHARED_INFO_EVTCHN_PENDING 2048
#define SHARED_INFO_EVTCHN_MASK 2560

/* Page tables: mmu_update, by the low bits of its pointer; mmuext_op; update_va_mapping (xen.h). */
#define MMU_NORMAL_PT_UPDATE 0
#define MMU_MACHPHYS_UPDATE 1
#define MMU_PT_UPDATE_PRESERVE_AD 2
#define MMUEXT_PIN_L1_TABLE 0
#define MMUEXT_PIN_L4_TABLE 3
#define MMUEXT_UNPIN_TABLE 4
#define MMUEXT_NEW_BASEPTR 5
#define MMUEXT_TLB_FLUSH_LOCAL 6
#define MMUEXT_INVLPG_LOCAL 7
#define MMUEXT_TLB_FLUSH_MULTI 8
#define MMUEXT_INVLPG_MULTI 9
#define MMUEXT_TLB_FLUSH_ALL 10
#define MMUEXT_INVLPG_ALL 11
#define MMUEXT_FLUSH_CACHE 12
#define MMUEXT_SET_LDT 13
#define MMUEXT_NEW_USER_BASEPTR 15
#define MMUEXT_CLEAR_PAGE 16
#define MMUEXT_COPY_PAGE 17
#define MMUEXT_FLUSH_CACHE_GLOBAL 18
#define UVMF_TLB_FLUSH 1
#define UVMF_INVLPG 2
#define UVMF_FLUSHTYPE_MASK 3
#define UVMF_ALL 4

/* Segments, traps and how the kernel is entered (xen.h, callback.h, nmi.h, arch-x86/xen.h). */
#define SEGBASE_FS 0
#define SEGBASE_GS_USER 1
#define SEGBASE_GS_KERNEL 2
#define SEGBASE_GS_USER_SEL 3
#define TI_DPL 3
#define TI_IF 4
#define CALLBACKOP_register 0
#define CALLBACKOP_unregister 1
#define CALLBACKTYPE_event 0
#define CALLBACKTYPE_failsafe 1
#define CALLBACKTYPE_syscall 2
#define CALLBACKTYPE_nmi 4
#define CALLBACKTYPE_sysenter 5
#define CALLBACKTYPE_syscall32 7
#define CALLBACKF_mask_events 1
#define XENNMI_register_callback 0
#define XENNMI_unregister_callback 1
#define VGCF_in_kernel 4
#define VGCF_in_syscall 0x100
#define VMASST_CMD_enable 0
#define VMASST_CMD_disable 1
#define VMASST_TYPE_architectural_iopl 4

/* Event channels (event_channel.h) and the interrupts that Xen itself raises (xen.h). */
#define EVTCHNOP_bind_interdomain 0
#define EVTCHNOP_bind_virq 1
#define EVTCHNOP_bind_pirq 2
#define EVTCHNOP_close 3
#define EVTCHNOP_send 4
#define EVTCHNOP_status 5
#define EVTCHNOP_alloc_unbound 6
#define EVTCHNOP_bind_ipi 7
#define EVTCHNOP_bind_vcpu 8
#define EVTCHNOP_unmask 9
#define EVTCHNOP_reset 10
#define EVTCHNSTAT_closed 0
#define EVTCHNSTAT_unbound 1
#define EVTCHNSTAT_interdomain 2
#define EVTCHNSTAT_pirq 3
#define EVTCHNSTAT_virq 4
#define EVTCHNSTAT_ipi 5
#define EVTCHN_2L_NR_CHANNELS 4096
#define VIRQ_TIMER 0
#define VIRQ_DEBUG 1
#define VIRQ_CONSOLE 2
#define VIRQ_DOM_EXC 3
#define VIRQ_TBUF 4
#define VIRQ_DEBUGGER 6
#define VIRQ_XENOPROF 7
#define VIRQ_CON_RING 8
#define VIRQ_PCPU_STATE 9
#define VIRQ_MEM_EVENT 10
#define VIRQ_ARGO 11
#define VIRQ_ENOMEM 12
#define VIRQ_XENPMU 13
#define NR_VIRQS 24

/* vCPUs (vcpu.h) and what they wait for (sched.h). */
#define VCPUOP_initialise 0
#define VCPUOP_up 1
#define VCPUOP_down 2
#define VCPUOP_is_up 3
#define VCPUOP_get_runstate_info 4
#define VCPUOP_register_runstate_memory_area 5
#define VCPUOP_set_periodic_timer 6
#define VCPUOP_stop_periodic_timer 7
#define VCPUOP_set_singleshot_timer 8
#define VCPUOP_stop_singleshot_timer 9
#define VCPUOP_register_vcpu_info 10
#define VCPUOP_send_nmi 11
#define VCPUOP_get_physid 12
#define VCPUOP_register_vcpu_time_memory_area 13
#define VCPU_SSHOTTMR_future 1
#define SCHEDOP_yield 0
#define SCHEDOP_block 1
#define SCHEDOP_shutdown 2
#define SCHEDOP_poll 3
#define SCHEDOP_shutdown_code 5
#define SCHEDOP_watchdog 6
#define SHUTDOWN_poweroff 0
#define SHUTDOWN_reboot 1
#define SHUTDOWN_suspend 2
#define SHUTDOWN_crash 3
#define SHUTDOWN_watchdog 4
#define SHUTDOWN_soft_reset 5

/* Memory (memory.h), port I/O (physdev.h), and what Xen is (version.h). */
#define XENMEM_increase_reservation 0
#define XENMEM_decrease_reservation 1
#define XENMEM_maximum_ram_page 2
#define XENMEM_current_reservation 3
#define XENMEM_maximum_reservation 4
#define XENMEM_machphys_mfn_list 5
#define XENMEM_populate_physmap 6
#define XENMEM_memory_map 9
#define XENMEM_exchange 11
#define XENMEM_machphys_mapping 12
#define PHYSDEVOP_set_iopl 6
#define PHYSDEVOP_set_iobitmap 7
#define XENVER_version 0
#define XENVER_extraversion 1
#define XENVER_compile_info 2
#define XENVER_capabilities 3
#define XENVER_changeset 4
#define XENVER_platform_parameters 5
#define XENVER_get_features 6
#define XENVER_pagesize 7
#define XENVER_guest_handle 8
#define XENVER_commandline 9

/* Grants (grant_table.h): an entry's flags, operations, their flags, and what they answer. */
#define GTF_permit_access 1
#define GTF_accept_transfer 2
#define GTF_transitive 3
#define GTF_type_mask 3
#define GTF_readonly 4
#define GTF_reading 8
#define GTF_writing 16
#define GTF_sub_page 0x100
#define GNTTABOP_map_grant_ref 0
#define GNTTABOP_unmap_grant_ref 1
#define GNTTABOP_setup_table 2
#define GNTTABOP_dump_table 3
#define GNTTABOP_transfer 4
#define GNTTABOP_copy 5
#define GNTTABOP_query_size 6
#define GNTTABOP_unmap_and_replace 7
#define GNTTABOP_set_version 8
#define GNTTABOP_get_status_frames 9
#define GNTTABOP_get_version 10
#define GNTTABOP_swap_grant_ref 11
#define GNTTABOP_cache_flush 12
#define GNTMAP_device_map 1
#define GNTMAP_host_map 2
#define GNTMAP_readonly 4
#define GNTMAP_contains_pte 16
#define GNTMAP_guest_avail_shift 16
#define GNTCOPY_source_gref 1
#define GNTCOPY_dest_gref 2
#define GNTTAB_CACHE_CLEAN 1
#define GNTTAB_CACHE_INVAL 2
#define GNTST_okay 0
#define GNTST_general_error (-1)
#define GNTST_bad_domain (-2)
#define GNTST_bad_gntref (-3)
#define GNTST_bad_handle (-4)
#define GNTST_bad_virt_addr (-5)
#define GNTST_bad_dev_addr (-6)
#define GNTST_no_device_space (-7)
#define GNTST_permission_denied (-8)
#define GNTST_bad_page (-9)
#define GNTST_bad_copy_arg (-10)
#define GNTST_address_too_big (-11)
#define GNTST_eagain (-12)
#define GNTST_no_space (-13)
#define GNTTAB_NR_RESERVED_ENTRIES 8
#define GNTTAB_RESERVED_CONSOLE 0
#define GNTTAB_RESERVED_XENSTORE 1
