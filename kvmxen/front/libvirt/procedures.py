"""The procedures of the remote program: the layouts of a call and its answer, and who answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvmxen.front.libvirt import domain_calls as domains
from kvmxen.front.libvirt import figure_calls as figures
from kvmxen.front.libvirt import host_calls as host
from kvmxen.front.libvirt import native_calls as native
from kvmxen.front.libvirt import storage_calls as storage
from kvmxen.front.libvirt.session import Session
from kvmxen.front.libvirt.wire import DOMAIN, PARAMETER, POOL, TEXT, UUID_BYTES, VOLUME
from kvmxen.front.libvirt.xdr import (
    HYPER,
    INT,
    OPAQUE,
    STRING,
    UHYPER,
    UINT,
    Array,
    Chars,
    Optional,
    Struct,
    Type,
)


@dataclass(frozen=True)
class Procedure:
    """A procedure: its name in libvirt, the layouts, and the function that answers."""

    name: str
    arguments: Struct
    answer: Struct
    function: Callable[..., tuple[Any, ...]]


def _(
    name: str,
    arguments: tuple[Type, ...],
    answer: tuple[Type, ...],
    function: Callable[..., tuple[Any, ...]],
) -> Procedure:
    return Procedure(name, Struct(*arguments), Struct(*answer), function)


def register(session: Session, event: int, domain: Any) -> tuple[int]:
    """Ask for an event, of one domain or of all."""
    return (session.register(event, domain[1] if domain else None),)


def deregister(session: Session, callback: int) -> tuple[()]:
    """Ask for it no more."""
    session.deregister(callback)
    return ()


_STAT = Struct(STRING, UHYPER)
_VCPU = Struct(UINT, INT, UHYPER, INT)
_STATS_RECORD = Struct(DOMAIN, Array(PARAMETER))
_SIX = (HYPER,) * 5
_EIGHT = (HYPER,) * 8
_KEYED = (DOMAIN,)

PROCEDURES: dict[int, Procedure] = {
    1: _("connect_open", (TEXT, UINT), (), host.nothing),
    2: _("connect_close", (), (), host.nothing),
    3: _("connect_get_type", (), (STRING,), host.get_type),
    4: _("connect_get_version", (), (UHYPER,), host.version),
    5: _("connect_get_max_vcpus", (TEXT,), (INT,), host.max_vcpus),
    6: _("node_get_info", (), (Chars(32), UHYPER, *(INT,) * 6), host.node_info),
    7: _("connect_get_capabilities", (), (STRING,), host.capabilities),
    8: _("domain_attach_device", (DOMAIN, STRING), (), domains.attach),
    9: _("domain_create", _KEYED, (), domains.create_quietly),
    10: _("domain_create_xml", (STRING, UINT), _KEYED, domains.create_xml),
    11: _("domain_define_xml", (STRING,), _KEYED, domains.define),
    12: _("domain_destroy", _KEYED, (), domains.destroy),
    13: _("domain_detach_device", (DOMAIN, STRING), (), domains.detach),
    14: _("domain_get_xml_desc", (DOMAIN, UINT), (STRING,), domains.xml),
    15: _("domain_get_autostart", _KEYED, (INT,), domains.get_autostart),
    16: _("domain_get_info", _KEYED, (UINT, UHYPER, UHYPER, UINT, UHYPER), figures.info),
    17: _("domain_get_max_memory", _KEYED, (UHYPER,), figures.max_memory),
    18: _("domain_get_max_vcpus", _KEYED, (INT,), figures.max_vcpus),
    19: _("domain_get_os_type", _KEYED, (STRING,), figures.os_type),
    20: _("domain_get_vcpus", (DOMAIN, INT, INT), (Array(_VCPU), OPAQUE), figures.vcpus),
    21: _("connect_list_defined_domains", (INT,), (Array(STRING),), domains.list_defined),
    22: _("domain_lookup_by_id", (INT,), _KEYED, domains.by_id),
    23: _("domain_lookup_by_name", (STRING,), _KEYED, domains.by_name),
    24: _("domain_lookup_by_uuid", (UUID_BYTES,), _KEYED, domains.by_uuid),
    25: _("connect_num_of_defined_domains", (), (INT,), domains.number_of(False)),
    27: _("domain_reboot", (DOMAIN, UINT), (), domains.reboot),
    28: _("domain_resume", _KEYED, (), domains.resume),
    29: _("domain_set_autostart", (DOMAIN, INT), (), domains.set_autostart),
    32: _("domain_set_vcpus", (DOMAIN, UINT), (), domains.set_vcpus),
    33: _("domain_shutdown", _KEYED, (), domains.shutdown),
    34: _("domain_suspend", _KEYED, (), domains.suspend),
    35: _("domain_undefine", _KEYED, (), domains.undefine),
    37: _("connect_list_domains", (INT,), (Array(INT),), domains.list_ids),
    46: _("network_lookup_by_name", (STRING,), (), host.no_network),
    47: _("network_lookup_by_uuid", (UUID_BYTES,), (), host.no_network),
    51: _("connect_num_of_domains", (), (INT,), domains.number_of(True)),
    59: _("connect_get_hostname", (), (STRING,), host.hostname),
    60: _("connect_supports_feature", (INT,), (INT,), host.supports_feature),
    64: _("domain_block_stats", (DOMAIN, STRING), _SIX, figures.block_stats),
    65: _("domain_interface_stats", (DOMAIN, STRING), _EIGHT, figures.interface_stats),
    66: _("auth_list", (), (Array(INT),), host.auth_list),
    76: _("storage_pool_create_xml", (STRING, UINT), (POOL,), storage.create_xml),
    77: _("storage_pool_define_xml", (STRING, UINT), (POOL,), storage.define),
    78: _("storage_pool_create", (POOL, UINT), (), storage.create),
    79: _("storage_pool_build", (POOL, UINT), (), storage.build),
    80: _("storage_pool_destroy", (POOL,), (), storage.destroy),
    82: _("storage_pool_undefine", (POOL,), (), storage.undefine),
    83: _("storage_pool_refresh", (POOL, UINT), (), storage.refresh),
    84: _("storage_pool_lookup_by_name", (STRING,), (POOL,), storage.by_name),
    85: _("storage_pool_lookup_by_uuid", (UUID_BYTES,), (POOL,), storage.by_uuid),
    86: _("storage_pool_lookup_by_volume", (VOLUME,), (POOL,), storage.by_volume),
    87: _("storage_pool_get_info", (POOL,), (UINT, UHYPER, UHYPER, UHYPER), storage.info),
    88: _("storage_pool_get_xml_desc", (POOL, UINT), (STRING,), storage.xml),
    89: _("storage_pool_get_autostart", (POOL,), (INT,), storage.get_autostart),
    90: _("storage_pool_set_autostart", (POOL, INT), (), storage.set_autostart),
    91: _("storage_pool_num_of_volumes", (POOL,), (INT,), storage.number_of_volumes),
    92: _("storage_pool_list_volumes", (POOL, INT), (Array(STRING),), storage.volume_names),
    93: _("storage_vol_create_xml", (POOL, STRING, UINT), (VOLUME,), storage.create_volume),
    94: _("storage_vol_delete", (VOLUME, UINT), (), storage.delete_volume),
    95: _("storage_vol_lookup_by_name", (POOL, STRING), (VOLUME,), storage.volume_by_name),
    96: _("storage_vol_lookup_by_key", (STRING,), (VOLUME,), storage.volume_by_path),
    97: _("storage_vol_lookup_by_path", (STRING,), (VOLUME,), storage.volume_by_path),
    98: _("storage_vol_get_info", (VOLUME,), (INT, UHYPER, UHYPER), storage.volume_info),
    99: _("storage_vol_get_xml_desc", (VOLUME, UINT), (STRING,), storage.volume_xml),
    100: _("storage_vol_get_path", (VOLUME,), (STRING,), storage.volume_path),
    102: _("node_get_free_memory", (), (UHYPER,), host.free_memory),
    110: _("connect_get_uri", (), (STRING,), host.uri),
    125: _(
        "storage_vol_create_xml_from",
        (POOL, STRING, VOLUME, UINT),
        (VOLUME,),
        storage.copy_volume,
    ),
    135: _("connect_domain_xml_from_native", (STRING, STRING, UINT), (STRING,), native.from_native),
    136: _("connect_domain_xml_to_native", (STRING, STRING, UINT), (STRING,), native.to_native),
    139: _("connect_num_of_secrets", (), (INT,), host.none),
    149: _("connect_is_secure", (), (INT,), host.is_secure),
    150: _("domain_is_active", _KEYED, (INT,), figures.is_active),
    151: _("domain_is_persistent", _KEYED, (INT,), figures.is_persistent),
    154: _("storage_pool_is_active", (POOL,), (INT,), storage.is_active),
    155: _("storage_pool_is_persistent", (POOL,), (INT,), storage.is_persistent),
    157: _("connect_get_lib_version", (), (UHYPER,), host.lib_version),
    159: _(
        "domain_memory_stats",
        (DOMAIN, UINT, UINT),
        (Array(Struct(INT, UHYPER)),),
        figures.memory_stats,
    ),
    160: _("domain_attach_device_flags", (DOMAIN, STRING, UINT), (), domains.attach),
    161: _("domain_detach_device_flags", (DOMAIN, STRING, UINT), (), domains.detach),
    163: _("domain_get_job_info", _KEYED, (INT, *(UHYPER,) * 11), figures.job_info),
    178: _("connect_num_of_nwfilters", (), (INT,), host.none),
    183: _("domain_has_managed_save_image", (DOMAIN, UINT), (INT,), host.none),
    187: _("domain_snapshot_num", (DOMAIN, UINT), (INT,), host.none),
    194: _("domain_get_block_info", (DOMAIN, STRING, UINT), (UHYPER,) * 3, figures.block_info),
    196: _("domain_create_with_flags", (DOMAIN, UINT), _KEYED, domains.create),
    199: _("domain_set_vcpus_flags", (DOMAIN, UINT, UINT), (), domains.set_vcpus),
    200: _("domain_get_vcpus_flags", (DOMAIN, UINT), (INT,), figures.vcpu_count),
    201: _("domain_open_console", (DOMAIN, TEXT, UINT), (), domains.open_console),
    202: _("domain_is_updated", _KEYED, (INT,), host.none),
    203: _("connect_get_sysinfo", (UINT,), (STRING,), host.sysinfo),
    204: _("domain_set_memory_flags", (DOMAIN, UHYPER, UINT), (), domains.set_memory),
    208: _("storage_vol_upload", (VOLUME, UHYPER, UHYPER, UINT), (), storage.upload_volume),
    210: _("domain_inject_nmi", (DOMAIN, UINT), (), domains.inject_nmi),
    212: _("domain_get_state", (DOMAIN, UINT), (INT, INT), figures.state),
    227: _("node_get_cpu_stats", (INT, INT, UINT), (Array(_STAT), INT), host.cpu_stats),
    228: _("node_get_memory_stats", (INT, INT, UINT), (Array(_STAT), INT), host.memory_stats),
    229: _("domain_get_control_info", (DOMAIN, UINT), (UINT, UINT, UHYPER), figures.control_info),
    231: _("domain_undefine_flags", (DOMAIN, UINT), (), domains.undefine),
    234: _("domain_destroy_flags", (DOMAIN, UINT), (), domains.destroy),
    258: _("domain_shutdown_flags", (DOMAIN, UINT), (), domains.shutdown),
    264: _("domain_set_metadata", (DOMAIN, INT, TEXT, TEXT, TEXT, UINT), (), domains.set_metadata),
    265: _("domain_get_metadata", (DOMAIN, INT, TEXT, UINT), (STRING,), domains.get_metadata),
    273: _("connect_list_all_domains", (INT, UINT), (Array(DOMAIN), UINT), domains.list_all),
    274: _("domain_list_all_snapshots", (DOMAIN, INT, UINT), (Array(DOMAIN), INT), host.no_objects),
    281: _("connect_list_all_storage_pools", (INT, UINT), (Array(POOL), UINT), storage.list_pools),
    282: _(
        "storage_pool_list_all_volumes",
        (POOL, INT, UINT),
        (Array(VOLUME), UINT),
        storage.list_volumes,
    ),
    283: _("connect_list_all_networks", (INT, UINT), (Array(POOL), UINT), host.no_objects),
    284: _("connect_list_all_interfaces", (INT, UINT), (Array(POOL), UINT), host.no_objects),
    285: _("connect_list_all_node_devices", (INT, UINT), (Array(POOL), UINT), host.no_objects),
    286: _("connect_list_all_nwfilters", (INT, UINT), (Array(POOL), UINT), host.no_objects),
    287: _("connect_list_all_secrets", (INT, UINT), (Array(POOL), UINT), host.no_objects),
    293: _("node_get_cpu_map", (INT, INT, UINT), (Optional(OPAQUE), UINT, INT), host.cpu_map),
    298: _("domain_get_job_stats", (DOMAIN, UINT), (INT, Array(PARAMETER)), figures.job_stats),
    316: _(
        "connect_domain_event_callback_register_any",
        (INT, Optional(DOMAIN)),
        (INT,),
        register,
    ),
    317: _("connect_domain_event_callback_deregister_any", (INT,), (), deregister),
    342: _(
        "connect_get_domain_capabilities",
        (TEXT, TEXT, TEXT, TEXT, UINT),
        (STRING,),
        host.domain_capabilities,
    ),
    344: _(
        "connect_get_all_domain_stats",
        (Array(DOMAIN), UINT, UINT),
        (Array(_STATS_RECORD),),
        figures.all_stats,
    ),
    350: _("domain_define_xml_flags", (STRING, UINT), _KEYED, domains.define),
    358: _("domain_rename", (DOMAIN, TEXT, UINT), (INT,), domains.rename),
    360: _("connect_register_close_callback", (), (), host.nothing),
    361: _("connect_unregister_close_callback", (), (), host.nothing),
}
CONSOLE = 201
EVENT_LIFECYCLE, EVENT_REBOOT = 318, 319
