"""The network interface's ring entries. Source: xen/include/public/io/netif.h."""

from __future__ import annotations

from construct import Array, Int8ul, Int16sl, Int16ul, Int32ul, Padding, Struct

# NETTXF_*: flags of a transmit request.
TX_CSUM_BLANK = 1 << 0
TX_DATA_VALIDATED = 1 << 1
TX_MORE_DATA = 1 << 2
TX_EXTRA_INFO = 1 << 3

# NETRXF_*: flags of a receive response.
RX_DATA_VALIDATED = 1 << 0
RX_CSUM_BLANK = 1 << 1
RX_MORE_DATA = 1 << 2
RX_EXTRA_INFO = 1 << 3

# XEN_NETIF_EXTRA_TYPE_*
EXTRA_GSO = 1
EXTRA_MCAST_ADD = 2
EXTRA_MCAST_DEL = 3
EXTRA_HASH = 4
EXTRA_MORE = 1

# XEN_NETIF_GSO_TYPE_*
GSO_NONE = 0
GSO_TCPV4 = 1
GSO_TCPV6 = 2

# NETIF_RSP_*: a status. A received packet's status is its length in bytes.
RSP_NULL = 1
RSP_OKAY = 0
RSP_ERROR = -1
RSP_DROPPED = -2

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
