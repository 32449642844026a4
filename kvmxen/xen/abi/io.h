/* The protocols between frontends and backends, and of xenstore: the numbers that backends (Cython,
 * by io.pxd), our guests (C) and Python (io.py) share, under Xen's names. Python reads each line
 * "#define NAME number": there are no other macros. Source: xen/include/public/io.
 */
#pragma once

/* A device's ring: the offsets in bytes of its indices, and of its entries (ring.h). */
#define RING_REQ_PROD 0
#define RING_REQ_EVENT 4
#define RING_RSP_PROD 8
#define RING_RSP_EVENT 12
#define RING_ENTRIES 64

/* The sizes in bytes of the console's two rings (console.h). */
#define XENCONS_IN_SIZE 1024
#define XENCONS_OUT_SIZE 2048

/* The states of a device's two ends (xenbus.h). */
#define XenbusStateUnknown 0
#define XenbusStateInitialising 1
#define XenbusStateInitWait 2
#define XenbusStateInitialised 3
#define XenbusStateConnected 4
#define XenbusStateClosing 5
#define XenbusStateClosed 6
#define XenbusStateReconfiguring 7
#define XenbusStateReconfigured 8

/* xenstore's messages and sizes in bytes (xs_wire.h); 20 was XS_RESTRICT and is invalid. */
#define XS_CONTROL 0
#define XS_DIRECTORY 1
#define XS_READ 2
#define XS_GET_PERMS 3
#define XS_WATCH 4
#define XS_UNWATCH 5
#define XS_TRANSACTION_START 6
#define XS_TRANSACTION_END 7
#define XS_INTRODUCE 8
#define XS_RELEASE 9
#define XS_GET_DOMAIN_PATH 10
#define XS_WRITE 11
#define XS_MKDIR 12
#define XS_RM 13
#define XS_SET_PERMS 14
#define XS_WATCH_EVENT 15
#define XS_ERROR 16
#define XS_IS_DOMAIN_INTRODUCED 17
#define XS_RESUME 18
#define XS_SET_TARGET 19
#define XS_RESET_WATCHES 21
#define XS_DIRECTORY_PART 22
#define XS_GET_FEATURE 23
#define XS_SET_FEATURE 24
#define XS_GET_QUOTA 25
#define XS_SET_QUOTA 26
#define XENSTORE_PAYLOAD_MAX 4096
#define XENSTORE_ABS_PATH_MAX 3072
#define XENSTORE_REL_PATH_MAX 2048
#define XENSTORE_RING_SIZE 1024

/* Disks (blkif.h): operations, how they ended, and a discard's flag. */
#define BLKIF_OP_READ 0
#define BLKIF_OP_WRITE 1
#define BLKIF_OP_WRITE_BARRIER 2
#define BLKIF_OP_FLUSH_DISKCACHE 3
#define BLKIF_OP_DISCARD 5
#define BLKIF_OP_INDIRECT 6
#define BLKIF_RSP_OKAY 0
#define BLKIF_RSP_ERROR (-1)
#define BLKIF_RSP_EOPNOTSUPP (-2)
#define BLKIF_DISCARD_SECURE 1
#define BLKIF_MAX_SEGMENTS_PER_REQUEST 11
#define BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST 8
#define VDISK_CDROM 1
#define VDISK_READONLY 4

/* Networks (netif.h): flags of a request to transmit and of a received packet, extra information,
 * and how a request ended. */
#define NETTXF_csum_blank 1
#define NETTXF_data_validated 2
#define NETTXF_more_data 4
#define NETTXF_extra_info 8
#define NETRXF_data_validated 1
#define NETRXF_csum_blank 2
#define NETRXF_more_data 4
#define NETRXF_extra_info 8
#define XEN_NETIF_EXTRA_TYPE_GSO 1
#define XEN_NETIF_EXTRA_TYPE_MCAST_ADD 2
#define XEN_NETIF_EXTRA_TYPE_MCAST_DEL 3
#define XEN_NETIF_EXTRA_TYPE_HASH 4
#define XEN_NETIF_EXTRA_FLAG_MORE 1
#define XEN_NETIF_GSO_TYPE_NONE 0
#define XEN_NETIF_GSO_TYPE_TCPV4 1
#define XEN_NETIF_GSO_TYPE_TCPV6 2
#define NETIF_RSP_NULL 1
#define NETIF_RSP_OKAY 0
#define NETIF_RSP_ERROR (-1)
#define NETIF_RSP_DROPPED (-2)
