/* Where the guest is: what xen_version, memory_op and vcpu_op say. */
#include "demo.h"

static const char *const features[] = {
    [0] = "writable_page_tables",
    [1] = "writable_descriptor_tables",
    [2] = "auto_translated_physmap",
    [3] = "supervisor_mode_kernel",
    [4] = "pae_pgdir_above_4gb",
    [5] = "mmu_pt_update_preserve_ad",
    [6] = "highmem_assist",
    [7] = "gnttab_map_avail_bits",
    [8] = "hvm_callback_vector",
    [9] = "hvm_safe_pvclock",
    [10] = "hvm_pirqs",
    [11] = "dom0",
    [12] = "grant_map_identity",
    [13] = "memory_op_vnode_supported",
    [14] = "ARM_SMCCC_supported",
    [15] = "linux_rsdp_unrestricted",
    [16] = "not_direct_mapped",
    [17] = "direct_mapped",
    [18] = "runstate_phys_area",
    [19] = "vcpu_time_phys_area",
};

static void ask(u32 op, void *to, const char *name)
{
    long error = xen_version(op, to);
    if (error)
        fail("xen_version(%s) answers %ld", name, error);
}

static void show_features(void)
{
    struct xen_feature_info info = {0};
    ask(XENVER_get_features, &info, "get_features");
    if (!info.submap)
        table_row("features", "none");
    const char *label = "features";
    for (u32 bit = 0; bit < 32; bit++)
        if (info.submap >> bit & 1) {
            bool known = bit < ARRAY_SIZE(features);
            table_row(label, "%u %s", bit, known ? features[bit] : "not known to this guest");
            label = "";
        }
}

void show_xen(void)
{
    static char text[1024];
    u8 uuid[16];
    table_section("Xen");
    long version = xen_version(XENVER_version, NULL);
    if (version <= 0)
        fail("xen_version(version) answers %ld", version);
    ask(XENVER_extraversion, text, "extraversion");
    table_row("version", "%lu.%lu%.16s", version >> 16, version & 0xffff, text);
    table_row("start_info magic", "%.32s", start_info->magic);
    ask(XENVER_capabilities, text, "capabilities");
    table_row("capabilities", "%.200s", text);
    show_features();
    ask(XENVER_guest_handle, uuid, "guest_handle");
    table_row("domain uuid",
              "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", uuid[0],
              uuid[1], uuid[2], uuid[3], uuid[4], uuid[5], uuid[6], uuid[7], uuid[8], uuid[9],
              uuid[10], uuid[11], uuid[12], uuid[13], uuid[14], uuid[15]);
    u32 up = 0, cpus = cpu_count();
    for (u32 cpu = 0; cpu < cpus; cpu++)
        up += vcpu_op(VCPUOP_is_up, cpu, NULL) == 1;
    if (!up)
        fail("vcpu_op(is_up) says that no vCPU is up");
    table_row("vCPUs", "%u, %u of them up", cpus, up);
    table_row("command line", "%.200s", start_info->cmd_line);
}

void show_memory(void)
{
    struct e820_entry entries[16];
    struct xen_memory_map map = {ARRAY_SIZE(entries), entries};
    u16 domid = DOMID_SELF;
    table_section("memory");
    table_row("nr_pages", "%lu (%lu MiB)", start_info->nr_pages, start_info->nr_pages >> 8);
    long most = memory_op(XENMEM_maximum_reservation, &domid);
    if (most <= 0)
        fail("memory_op(maximum_reservation) answers %ld", most);
    table_row("maximum_reservation", "%ld pages", most);
    long error = memory_op(XENMEM_memory_map, &map);
    if (error || map.nr_entries > ARRAY_SIZE(entries))
        fail("memory_op(memory_map) answers %ld, %u entries", error, map.nr_entries);
    for (u32 i = 0; i < map.nr_entries; i++)
        table_row(i ? "" : "memory_map", "%#011lx - %#011lx  %s", entries[i].addr,
                  entries[i].addr + entries[i].size - 1,
                  entries[i].type == 1 ? "RAM" : "reserved");
}
