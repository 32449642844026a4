"""The network interface's ring entries. Source: xen/include/public/io/netif.h."""

from __future__ import annotations

from construct import Array, Int8ul, Int16sl, Int16ul, Int32ul, Padding, Struct

from kvmxen.xen.abi import io

# NETTXF_*: flags of a transmit request.
TX_CSUM_BLANK = io.NETTXF_csum_blank
TX_DATA_VALIDATED = io.NETTXF_data_validated
TX_MORE_DATA = io.NETTXF_more_data
TX_EXTRA_INFO = io.NETTXF_extra_info

# NETRXF_*: flags of a receive response.
RX_DATA_VALIDATED = io.NETRXF_data_validated
RX_CSUM_BLANK = io.NETRXF_csum_blank
RX_MORE_DATA = io.NETRXF_more_data
RX_EXTRA_INFO = io.NETRXF_extra_info

# XEN_NETIF_EXTRA_TYPE_*
EXTRA_GSO = io.XEN_NETIF_EXTRA_TYPE_GSO
EXTRA_MCAST_ADD = io.XEN_NETIF_EXTRA_TYPE_MCAST_ADD
EXTRA_MCAST_DEL = io.XEN_NETIF_EXTRA_TYPE_MCAST_DEL
EXTRA_HASH = io.XEN_NETIF_EXTRA_TYPE_HASH
EXTRA_MORE = io.XEN_NETIF_EXTRA_FLAG_MORE

# XEN_NETIF_GSO_TYPE_*
GSO_NONE = io.XEN_NETIF_GSO_TYPE_NONE
GSO_TCPV4 = io.XEN_NETIF_GSO_TYPE_TCPV4
GSO_TCPV6 = io.XEN_NETIF_GSO_TYPE_TCPV6

# NETIF_RSP_*: a status. A received packet's status is its length in bytes.
RSP_NULL = io.NETIF_RSP_NULL
RSP_OKAY = io.NETIF_RSP_OKAY
RSP_ERROR = io.NETIF_RSP_ERROR
RSP_DROPPED = io.NETIF_RSP_DROPPED

# A transmit request's size has 16 bits.
MAX_PACKET = 0xFFFF

TX_REQUEST = Struct(
    "gref" / Int32ul, "offset" / Int16ul, "flags" / Int16ul, "id" / Int16ul, "size" / Int16ul
)
TX_RESPONSE = Struct("id" / Int16ul, "status" / Int16sl)
RX_REQUEST = Struct("id" / Int16ul, Padding(2), "gref" / Int32ul)
RX_RESPONSE = Struct("id" / Int16ul, "offset" / Int16ul, "flags" / Int16ul, "status" / Int16sl)
EXTRA_GSO_INFO = Struct(
    "type" / Int8ul,
    "flags" / Int8ul,
    "size" / Int16ul,
    "gso_type" / Int8ul,
    Padding(1),
    "features" / Int16ul,
)
EXTRA_MCAST_INFO = Struct("type" / Int8ul, "flags" / Int8ul, "addr" / Array(6, Int8ul))
