"""The tree and its snapshots compared with plain dicts, in any interleaving."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kvmxen.xenstore.permissions import Permission
from kvmxen.xenstore.tree import Tree

PERMISSIONS = (Permission(0),)
NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, max_size=3).map(lambda names: "/" + "/".join(names))


def content(tree: Tree) -> dict[str, tuple[bytes, int]]:
    return {path: (node.value, node.generation) for path, node in tree.walk("/")}


class Snapshots(RuleBasedStateMachine):
    """Several trees, each a snapshot of another, and the dict that each should equal."""

    def __init__(self) -> None:
        super().__init__()
        first = Tree()
        first.put("/", b"", PERMISSIONS, 0)
        self.pairs: list[tuple[Tree, dict[str, tuple[bytes, int]]]] = [(first, {"/": (b"", 0)})]
        self.generation = 0

    @rule(which=st.integers(0, 5))
    def snapshot(self, which: int) -> None:
        if len(self.pairs) < 5:
            tree, model = self.pairs[which % len(self.pairs)]
            self.pairs.append((tree.snapshot(), dict(model)))

    @rule(which=st.integers(0, 5))
    def forget(self, which: int) -> None:
        if len(self.pairs) > 1:
            del self.pairs[which % len(self.pairs)]

    @rule(which=st.integers(0, 5), path=PATHS, value=st.binary(max_size=3))
    def put(self, which: int, path: str, value: bytes) -> None:
        tree, model = self.pairs[which % len(self.pairs)]
        above = path.rpartition("/")[0] or "/"
        if above in model:
            self.generation += 1
            tree.put(path, value, PERMISSIONS, self.generation)
            if path not in model:
                model[above] = (model[above][0], self.generation)
            model[path] = (value, self.generation)

    @rule(which=st.integers(0, 5), path=PATHS)
    def remove(self, which: int, path: str) -> None:
        tree, model = self.pairs[which % len(self.pairs)]
        above = path.rpartition("/")[0] or "/"
        if path in model and path != "/":
            self.generation += 1
            tree.remove(path, self.generation)
            model[above] = (model[above][0], self.generation)
            for gone in [p for p in model if p == path or p.startswith(path + "/")]:
                del model[gone]

    @invariant()
    def each_tree_is_its_model(self) -> None:
        for tree, model in self.pairs:
            assert content(tree) == model
            for path, (value, _) in model.items():
                node = tree.get(path)
                assert node is not None
                assert node.value == value
                listed = node.listing.decode().split("\0")[:-1]
                assert listed == node.names
                assert node.listing_size == len(node.listing)
                base = path.rstrip("/") + "/"
                below = {p[len(base) :] for p in model if p.startswith(base) and p != "/"}
                assert set(listed) == {p for p in below if "/" not in p}


TestSnapshots = Snapshots.TestCase
TestSnapshots.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_children_keep_the_order_of_their_making() -> None:
    tree = Tree()
    for i, path in enumerate(["/", "/z", "/a", "/m"]):
        tree.put(path, b"", PERMISSIONS, i)
    tree.remove("/a", 9)
    tree.put("/a", b"", PERMISSIONS, 10)
    root = tree.get("/")
    assert root is not None
    assert root.listing == b"z\0m\0a\0"


def test_a_change_without_a_snapshot_copies_nothing() -> None:
    tree = Tree()
    for i, path in enumerate(["/", "/a", "/a/b"]):
        tree.put(path, b"", PERMISSIONS, i)
    before = tree.get("/a")
    tree.put("/a/b", b"new", PERMISSIONS, 7)
    assert tree.get("/a") is before
    twin = tree.snapshot()
    tree.put("/a/b", b"newer", PERMISSIONS, 8)
    assert tree.get("/a") is not before
    assert twin.get("/a") is before


def test_walk_goes_children_first_in_order() -> None:
    tree = Tree()
    for path in ["/", "/a", "/a/b", "/a/b/c", "/a/d", "/e"]:
        tree.put(path, b"", PERMISSIONS, 0)
    assert [path for path, _ in tree.walk("/a")] == ["/a/b/c", "/a/b", "/a/d", "/a"]
    assert [path for path, _ in tree.walk("/")][-1] == "/"
    assert list(tree.walk("/none")) == []


def test_a_very_deep_tree_can_be_walked_and_dropped() -> None:
    tree = Tree()
    tree.put("/", b"", PERMISSIONS, 0)
    path = ""
    for _ in range(1500):
        path += "/a"
        tree.put(path, b"", PERMISSIONS, 0)
    assert sum(1 for _ in tree.walk("/")) == 1501
    tree.remove("/a", 1)
    assert sum(1 for _ in tree.walk("/")) == 1


def test_a_wide_directory_and_its_snapshots() -> None:
    """Enough for several buckets, in the order of their creation, whichever tree changes."""
    tree, names = Tree(), list[str]()
    tree.put("/", b"", PERMISSIONS, 0)
    trees: list[tuple[Tree, list[str]]] = []
    for i in range(3000):
        tree.put(f"/{i}", b"", PERMISSIONS, i + 1)
        names.append(str(i))
        if i % 500 == 250:
            trees.append((tree.snapshot(), list(names)))
        if i % 3 == 0:
            gone = names.pop(i // 7 % len(names))
            tree.remove(f"/{gone}", 10_000 + i)
    for number, (snapshot, expected) in enumerate(trees):
        snapshot.put("/own", b"", PERMISSIONS, 20_000 + number)
        snapshot.put(f"/{expected[0]}", b"new", PERMISSIONS, 30_000 + number)
        expected.append("own")
    for twin, expected in [*trees, (tree, names)]:
        root = twin.get("/")
        assert root is not None
        assert root.names == expected
        assert root.listing == "".join(f"{name}\0" for name in expected).encode()
        assert root.listing_size == len(root.listing)
        assert all(twin.get(f"/{name}") is not None for name in expected)
        assert twin.get("/none") is None
        assert [path for path, _ in twin.walk("/")] == [f"/{name}" for name in expected] + ["/"]
