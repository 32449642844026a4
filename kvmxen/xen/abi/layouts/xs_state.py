"""Layouts of the records of kvmxen.xen.abi.xs_state, from the same documents."""

from __future__ import annotations

from construct import (
    Array,
    Bytes,
    Const,
    Error,
    GreedyBytes,
    If,
    Int8ul,
    Int16ul,
    Int32sl,
    Int32ub,
    Int32ul,
    Int64ul,
    Padding,
    Prefixed,
    Struct,
    Switch,
    this,
)

from kvmxen.xen.abi.xs_state import HAS_UNIQUE_ID, ConnectionType

PREAMBLE = Struct(
    "ident" / Const(b"xenstore"),
    "version" / Int32ub,
    "flags" / Int32ub,
)

RECORD = Struct(
    "type" / Int32ul,
    "body" / Prefixed(Int32ul, GreedyBytes),
)

GLOBAL = Struct(
    "socket_fd" / Int32sl,
    "evtchn_fd" / Int32sl,
)

_RING = Struct(
    "domid" / Int16ul,
    "tdomid" / Int16ul,
    "evtchn" / Int32ul,
)

_SOCKET = Struct(
    "socket_fd" / Int32sl,
    Padding(4),
)

CONNECTION = Struct(
    "conn_id" / Int32ul,
    "conn_type" / Int16ul,
    "fields" / Int16ul,
    "spec"
    / Switch(
        this.conn_type,
        {ConnectionType.RING: _RING, ConnectionType.SOCKET: _SOCKET},
        default=Error,
    ),
    "data_in_len" / Int16ul,
    "data_resp_len" / Int16ul,
    "data_out_len" / Int32ul,
    "data_in" / Bytes(this.data_in_len),
    "data_out" / Bytes(this.data_out_len),
    Padding(lambda this: -(this.data_in_len + this.data_out_len) % 8),
    "unique_id" / If(this.fields & HAS_UNIQUE_ID, Int64ul),
)

WATCH = Struct(
    "conn_id" / Int32ul,
    "path_length" / Int16ul,
    "token_length" / Int16ul,
    "path" / Bytes(this.path_length),
    "token" / Bytes(this.token_length),
)

WATCH_EXTENDED = Struct(
    "conn_id" / Int32ul,
    "path_length" / Int16ul,
    "token_length" / Int16ul,
    "depth" / Int16ul,
    Padding(2),
    "path" / Bytes(this.path_length),
    "token" / Bytes(this.token_length),
)

TRANSACTION = Struct(
    "conn_id" / Int32ul,
    "ta_id" / Int32ul,
)

PERMISSION = Struct(
    "access" / Int8ul,
    "flags" / Int8ul,
    "domid" / Int16ul,
)

NODE = Struct(
    "conn_id" / Int32ul,
    "ta_id" / Int32ul,
    "path_len" / Int16ul,
    "data_len" / Int16ul,
    "ta_access" / Int16ul,
    "perm_n" / Int16ul,
    "perms" / Array(this.perm_n, PERMISSION),
    "path" / Bytes(this.path_len),
    "data" / Bytes(this.data_len),
)

GLOBAL_QUOTA = Struct(
    "n_dom_quota" / Int16ul,
    "n_glob_quota" / Int16ul,
    "quota_val" / Array(this.n_dom_quota + this.n_glob_quota, Int32ul),
    "names" / GreedyBytes,
)

DOMAIN = Struct(
    "domain_id" / Int16ul,
    "n_quota" / Int16ul,
    "features" / Int32ul,
    "quota_val" / Array(this.n_quota, Int32ul),
    "names" / GreedyBytes,
)
