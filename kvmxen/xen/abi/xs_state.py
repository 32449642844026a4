"""The whole state of a xenstore as a stream of records, version 2.

Source: docs/designs/xenstore-migration.md and tools/xenstored/xenstore_state.h. The header is
big-endian, the rest little-endian as its flags say. A body is padded with zeros to a multiple
of 8 bytes, which its record's length counts.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

VERSION = 2
LITTLE_ENDIAN = 0
DOMID_INVALID = 0x7FF4  # xen/include/public/xen.h
UNLIMITED_DEPTH = 0xFFFF


class RecordType(IntEnum):
    """XS_STATE_TYPE_*."""

    END = 0
    GLOBAL = 1
    CONNECTION = 2
    WATCH = 3
    TRANSACTION = 4
    NODE = 5
    GLOBAL_QUOTA = 6
    DOMAIN = 7
    WATCH_EXTENDED = 8


class ConnectionType(IntEnum):
    """XS_STATE_CONN_TYPE_*."""

    RING = 0
    SOCKET = 1


class Access(IntFlag):
    """XS_STATE_NODE_TA_*: how a transaction accessed a node; 0 is a deletion."""

    DELETED = 0
    READ = 1
    WRITTEN = 2


HAS_UNIQUE_ID = 1  # XS_STATE_CONN_FIELDS_UNIQ_ID
STALE = 1  # XS_STATE_NODE_PERM_IGNORE
