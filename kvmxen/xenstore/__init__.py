"""xenstore: bytes in, replies and watch events out; no I/O inside, the caller serialises calls.

Store        what this process has of a domain's xenstore: dom0's use of the nodes, watches with
             callbacks, connections for clients
State        what a store is made of: the Tree of Nodes, the Domains, the Watches, the lock
Tree         the nodes by path; a snapshot costs nothing
Node         a value, Permissions, and names of children
Transaction  a snapshot, and what was looked at and changed in it
View         what State and Transaction have in common
Access       a domain's use of a View, with its rights and within its Quota
Domain       a domain's rights, features, and use of resources
Connection   a client's bytes: it parses requests and queues replies and events
Session      the watches and transactions of a connection, or of this process
Request      one operation's arguments, for operations.py, domains.py and control.py
"""
