"""The calls about storage pools and volumes."""

from __future__ import annotations

from kvmxen.errors import KvmxenError
from kvmxen.front.libvirt import storage
from kvmxen.front.libvirt.session import Session
from kvmxen.front.libvirt.storage import Pool, Volume
from kvmxen.front.libvirt.wire import Code, Failure

PoolKey = tuple[str, bytes]
VolumeKey = tuple[str, str, str]
# virConnectListAllStoragePoolsFlags
_INACTIVE, _ACTIVE = 1, 2
# virStoragePoolState
_OFF, _RUNNING = 0, 2
# virStoragePoolCreateFlags: build it first.
_BUILD = 1 | 2 | 4


def _pool(session: Session, key: PoolKey) -> Pool:
    return session.host.pools.by_uuid(key[1])


def _volume(session: Session, key: VolumeKey) -> Volume:
    return storage.volume(session.host.pools.by_name(key[0]), key[1])


def list_pools(session: Session, _need: int, flags: int) -> tuple[list[PoolKey], int]:
    """The pools that `flags` ask for."""
    wanted = flags & (_ACTIVE | _INACTIVE) or _ACTIVE | _INACTIVE
    keys = [
        pool.key for pool in session.host.pools if wanted & (_ACTIVE if pool.active else _INACTIVE)
    ]
    return keys, len(keys)


def define(session: Session, text: str, _flags: int) -> tuple[PoolKey]:
    """Define a pool."""
    return (session.host.pools.define(text).key,)


def create_xml(session: Session, text: str, flags: int) -> tuple[PoolKey]:
    """Define a pool, and start it."""
    pool = session.host.pools.define(text)
    create(session, pool.key, flags)
    return (pool.key,)


def create(session: Session, key: PoolKey, flags: int) -> tuple[()]:
    """Start a pool."""
    pool = _pool(session, key)
    if flags & _BUILD:
        session.host.pools.build(pool)
    session.host.pools.start(pool)
    return ()


def build(session: Session, key: PoolKey, _flags: int) -> tuple[()]:
    """Make a pool's folder."""
    session.host.pools.build(_pool(session, key))
    return ()


def destroy(session: Session, key: PoolKey) -> tuple[()]:
    """Stop a pool."""
    session.host.pools.stop(_pool(session, key))
    return ()


def undefine(session: Session, key: PoolKey) -> tuple[()]:
    """Forget a pool."""
    session.host.pools.undefine(_pool(session, key))
    return ()


def refresh(session: Session, key: PoolKey, _flags: int) -> tuple[()]:
    """The folder is read at each question."""
    _pool(session, key)
    return ()


def by_name(session: Session, name: str) -> tuple[PoolKey]:
    """The pool of a name."""
    return (session.host.pools.by_name(name).key,)


def by_uuid(session: Session, uuid: bytes) -> tuple[PoolKey]:
    """The pool of a UUID."""
    return (session.host.pools.by_uuid(uuid).key,)


def by_volume(session: Session, key: VolumeKey) -> tuple[PoolKey]:
    """The pool of a volume."""
    return (session.host.pools.by_name(key[0]).key,)


def info(session: Session, key: PoolKey) -> tuple[int, int, int, int]:
    """A pool's state, capacity, allocation and free space."""
    pool = _pool(session, key)
    return _RUNNING if pool.active else _OFF, *storage.space(pool)


def xml(session: Session, key: PoolKey, _flags: int) -> tuple[str]:
    """A pool's XML."""
    return (storage.pool_xml(_pool(session, key)),)


def get_autostart(session: Session, key: PoolKey) -> tuple[int]:
    """Whether a pool is to be started with the host."""
    return (int(_pool(session, key).autostart),)


def set_autostart(session: Session, key: PoolKey, on: int) -> tuple[()]:
    """Whether a pool is to be started with the host."""
    session.host.pools.set_autostart(_pool(session, key), bool(on))
    return ()


def is_active(session: Session, key: PoolKey) -> tuple[int]:
    """Whether a pool is in use."""
    return (int(_pool(session, key).active),)


def is_persistent(session: Session, key: PoolKey) -> tuple[int]:
    """All pools are."""
    _pool(session, key)
    return (1,)


def number_of_volumes(session: Session, key: PoolKey) -> tuple[int]:
    """The number of files in a pool."""
    return (len(storage.volumes(_pool(session, key))),)


def volume_names(session: Session, key: PoolKey, most: int) -> tuple[list[str]]:
    """The names of the files in a pool."""
    return ([one.path.name for one in storage.volumes(_pool(session, key))][: max(most, 0)],)


def list_volumes(
    session: Session, key: PoolKey, _need: int, _flags: int
) -> tuple[list[VolumeKey], int]:
    """The files in a pool."""
    keys = [one.key for one in storage.volumes(_pool(session, key))]
    return keys, len(keys)


def volume_by_name(session: Session, key: PoolKey, name: str) -> tuple[VolumeKey]:
    """The volume of a name."""
    return (storage.volume(_pool(session, key), name).key,)


def volume_by_path(session: Session, path: str) -> tuple[VolumeKey]:
    """The volume of a path, which is its key too."""
    return (storage.by_path(session.host.pools, path).key,)


def volume_path(session: Session, key: VolumeKey) -> tuple[str]:
    """The path of a volume."""
    return (str(_volume(session, key).path),)


def volume_xml(session: Session, key: VolumeKey, _flags: int) -> tuple[str]:
    """A volume's XML."""
    return (storage.volume_xml(_volume(session, key)),)


def volume_info(session: Session, key: VolumeKey) -> tuple[int, int, int]:
    """A file's kind (a file), capacity and allocation."""
    found = _volume(session, key)
    return 0, found.capacity, found.allocation


def create_volume(session: Session, key: PoolKey, text: str, _flags: int) -> tuple[VolumeKey]:
    """Create a volume of zeros."""
    return (storage.create(_pool(session, key), text).key,)


def copy_volume(
    session: Session, key: PoolKey, text: str, source: VolumeKey, _flags: int
) -> tuple[VolumeKey]:
    """Create a copy of a volume."""
    return (storage.create(_pool(session, key), text, _volume(session, source)).key,)


def upload_volume(
    session: Session, key: VolumeKey, offset: int, length: int, flags: int
) -> tuple[()]:
    """Open a stream into a volume."""
    if flags:
        raise Failure(Code.UNSUPPORTED, "a sparse upload is not done: leave --sparse out")
    session.open_upload(_volume(session, key).path, offset, length)
    return ()


def delete_volume(session: Session, key: VolumeKey, _flags: int) -> tuple[()]:
    """Delete a volume's file."""
    path = _volume(session, key).path
    try:
        path.unlink()
    except OSError as error:
        raise KvmxenError(f"cannot delete {path}: {error.strerror}") from None
    return ()
