"""The layout: its parts never overlap, for every size of domain."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmxen.kvm.layout import (
    HOLE_END,
    HOLE_START,
    MAX_VCPUS,
    PAGE_SHIFT,
    PAGE_SIZE,
    SUPERPAGE,
    XENHEAP_FRAMES,
    Layout,
)
from kvmxen.kvm.memory import GuestMemory
from kvmxen.pv.shim.abi import constants
from kvmxen.pv.shim.image import ShimImage
from kvmxen.pv.shim.plan import plan

MAX_MEMORY = 64 << 30
layouts = st.builds(
    plan,
    st.integers(4 << 20, MAX_MEMORY) | st.integers(2 << 30, 4 << 30),
    st.integers(1, MAX_VCPUS),
    st.just(0) | st.integers(4 << 20, MAX_MEMORY),
)


@given(layouts)
def test_nothing_overlaps(layout: Layout) -> None:
    assert 0 < layout.xenheap_gpa
    assert layout.xenheap_gpa + XENHEAP_FRAMES * PAGE_SIZE <= layout.m2p_gpa
    first = layout.ram[0]
    assert layout.m2p_gpa + layout.m2p_bytes <= first.mfn << PAGE_SHIFT
    assert (first.mfn + first.frames) << PAGE_SHIFT <= HOLE_START
    for extent in layout.ram[1:]:
        assert extent.mfn << PAGE_SHIFT == HOLE_END
    last = layout.ram[-1]
    assert layout.end == (last.mfn + last.frames) << PAGE_SHIFT


@given(layouts)
def test_the_tables_for_large_pages_are_aligned(layout: Layout) -> None:
    assert layout.m2p_gpa % SUPERPAGE == 0
    assert layout.m2p_bytes % SUPERPAGE == 0
    assert layout.m2p_bytes >= layout.max_mfn * 8


@given(layouts, st.data())
def test_mfn_and_pfn_are_inverse(layout: Layout, data: st.DataObject) -> None:
    assert sum(extent.frames for extent in layout.ram) == layout.max_pages >= layout.nr_pages
    pfn = data.draw(
        st.integers(0, layout.nr_pages - 1)
        | st.sampled_from([0, layout.ram[0].frames - 1, layout.nr_pages - 1])
    )
    mfn = layout.mfn(pfn)
    assert layout.pfn(mfn) == pfn
    assert mfn < layout.max_mfn


@given(layouts)
def test_what_is_not_ram_has_no_pfn(layout: Layout) -> None:
    not_ram = (
        0,
        layout.xenheap_mfn,
        layout.m2p_gpa >> PAGE_SHIFT,
        layout.ram[0].mfn - 1,
        HOLE_START >> PAGE_SHIFT,
        (HOLE_END >> PAGE_SHIFT) - 1,
        layout.max_mfn,
    )
    assert [layout.pfn(mfn) for mfn in not_ram] == [None] * len(not_ram)
    for pfn in (-1, layout.max_pages):
        with pytest.raises(IndexError):
            layout.mfn(pfn)


@settings(max_examples=25, deadline=None)
@given(layouts)
def test_the_shim_fits_below_the_xenheap(layout: Layout) -> None:
    # Raises AssertionError if its page tables would reach the vCPUs' parts.
    image = ShimImage(GuestMemory(layout.end), layout)
    image.create()
    parts = [image.vcpu_gpa(index) for index in range(layout.vcpus)]
    size = constants()["VCPU_SIZE"]
    assert parts[-1] + size == layout.xenheap_gpa
    assert all(b - a == size for a, b in itertools.pairwise(parts))
    # One L3 of the shim maps 16 GiB in large pages.
    assert layout.end <= 512 << 30


@pytest.mark.parametrize("memory", [16 << 20, 3 << 30, 6 << 30, MAX_MEMORY])
@pytest.mark.parametrize("vcpus", [1, MAX_VCPUS])
def test_the_extremes(memory: int, vcpus: int) -> None:
    layout = plan(memory, vcpus)
    assert layout.nr_pages == memory >> PAGE_SHIFT
    assert len(layout.ram) == (1 if memory < 2 << 30 else 2)
    ShimImage(GuestMemory(layout.end), layout).create()


def test_room_to_grow_changes_nothing_of_the_memory_at_the_start() -> None:
    small, growing = plan(8 << 30, 2), plan(2 << 30, 2, 8 << 30)
    assert (small.nr_pages, small.max_pages) == (2 << 20, 2 << 20)
    assert (growing.nr_pages, growing.max_pages) == (1 << 19, 2 << 20)
    assert growing.ram == small.ram
    assert growing.end == small.end


def test_golden() -> None:
    layout = plan(512 << 20, 1)
    assert layout == Layout(
        nr_pages=131072,
        max_pages=131072,
        vcpus=1,
        xenheap_gpa=layout.xenheap_gpa,
        m2p_gpa=2 << 20,
        m2p_bytes=10 << 20,
        types_gpa=12 << 20,
        ram=layout.ram,
        end=(512 + 22) << 20,
    )
    assert layout.shared_info_mfn == layout.xenheap_mfn
