"""Layouts of the structures of kvmxen.xen.abi.xs_wire, from the same header."""

from __future__ import annotations

from construct import Bytes, Int32ul, Struct

from kvmxen.xen.abi.xs_wire import RING_SIZE

xsd_sockmsg = Struct(
    "type" / Int32ul,
    "req_id" / Int32ul,
    "tx_id" / Int32ul,
    "len" / Int32ul,
)

xenstore_domain_interface = Struct(
    "req" / Bytes(RING_SIZE),
    "rsp" / Bytes(RING_SIZE),
    "req_cons" / Int32ul,
    "req_prod" / Int32ul,
    "rsp_cons" / Int32ul,
    "rsp_prod" / Int32ul,
    "server_features" / Int32ul,
    "connection" / Int32ul,
    "error" / Int32ul,
    "evtchn_port" / Int32ul,
)
