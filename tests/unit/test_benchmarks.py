"""The benchmarks' processing of their measurements; `make bench` does the measuring."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import balloon, block, boot, exits, guest, guest_block, net, sample
from benchmarks.memory import resident
from benchmarks.page import PAGE, replace, table
from benchmarks.sample import Pair, Sample, in_turn
from benchmarks.summary import summarised
from benchmarks.xenstored import measure
from tests.packages import Unavailable

SMAPS = """\
55d0e5a3c000-55d0e5a3d000 r--p 00000000 fe:00 1234                       /usr/bin/python3
Size:                  4 kB
KernelPageSize:        4 kB
Rss:                   4 kB
Pss:                   1 kB
Shared_Clean:          4 kB
Private_Clean:         0 kB
VmFlags: rd mr mw me sd
7f0000000000-7f0020000000 rw-s 00000000 00:01 2048    /memfd:kvmxen-guest (deleted)
Size:             524288 kB
Rss:              102400 kB
Private_Dirty:    102400 kB
7f1000000000-7f1000021000 rw-p 00000000 00:00 0
Rss:                  96 kB
Private_Clean:        32 kB
Private_Dirty:        64 kB
"""


def test_a_sample_shows_its_median_and_spread() -> None:
    assert Sample.of([3, 1.25, 2]).show(".1f") == "2.0 (1.2-3.0)"


def test_pairs_are_taken_in_turn_after_a_warm_up() -> None:
    taken: list[str] = []

    def measure(name: str) -> float:
        taken.append(name)
        return len(taken)

    pair = in_turn(lambda: measure("a"), lambda: measure("b"), 2)
    assert "".join(taken) == "ababab"
    assert pair == Pair(Sample((3, 5)), Sample((4, 6)))
    assert pair.ratio == Sample((3 / 4, 5 / 6))


def test_the_pairs_that_others_disturbed_most_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    # The first is the warm-up, which is discarded.
    busy = iter([9.0, 0.1, 0.7, 0.2])

    def measure() -> float:
        clock[0] += 1
        return clock[0]

    used = [0.0]

    def disturbed() -> float:
        used[0] += next(busy)
        return measure()

    monkeypatch.setattr(sample, "_others", lambda: used[0])
    monkeypatch.setattr(sample, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    pair = in_turn(disturbed, measure, 2, spare=1)
    assert pair == Pair(Sample((3, 7)), Sample((4, 8)))


def test_a_section_is_replaced_and_nothing_else() -> None:
    text = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n<!-- y -->\n<!-- end of y -->\n"
    changed = replace(text, "x", r"new \1")
    assert changed == text.replace("old\n", "\nnew \\1\n\n")
    assert replace(changed, "x", r"new \1") == changed


@pytest.mark.parametrize("text", ["", "<!-- x -->\n", "<!-- x -->\n<!-- end of x -->\n" * 2])
def test_a_page_has_each_section_once(text: str) -> None:
    with pytest.raises(ValueError, match="sections x"):
        replace(text, "x", "new")


XENSTORE = ("xenstore 1", "xenstore 32", "xenstore start")


@pytest.mark.parametrize(
    "section", ["exits", "guest", "boot", "counts", "memory", "net", *XENSTORE]
)
def test_the_page_has_every_section(section: str) -> None:
    page = Path(__file__).parents[2] / PAGE
    replace(page.read_text(), section, "new")


def test_the_pages_summary_is_that_of_its_tables() -> None:
    page = (Path(__file__).parents[2] / PAGE).read_text()
    assert summarised(page) == page
    # A figure that changes below changes above too.
    row = next(line for line in page.splitlines() if line.startswith("| null hypercall (`"))
    changed = page.replace(row, row.replace(row.split(" | ")[1].split()[0], "77.7", 1))
    assert "| null hypercall | 77.7 us |" in summarised(changed)


def test_a_summary_of_a_page_that_lacks_a_figure() -> None:
    page = (Path(__file__).parents[2] / PAGE).read_text()
    with pytest.raises(ValueError, match="no row 4 KiB random read, depth 32"):
        summarised(page.replace("| 4 KiB random read, depth 32", "| 4 KiB read"))
    with pytest.raises(ValueError, match="no section counts"):
        summarised(page.replace("<!-- counts -->", ""))


def test_a_table() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


def test_exits_are_compared() -> None:
    pair = Pair(Sample((11_000, 10_000, 12_000)), Sample((10_000, 10_000, 10_000)))
    row = exits.report({"a list": (pair, 1.05)}).splitlines()[-1]
    assert row == "| a list | 90,909 | 100,000 | 11.0 | 10.0 | 1.100 (1.000-1.200) | 1.05 |"


def test_the_guests_lines_are_read() -> None:
    output = "\x1b[0mXen guest\nBENCH null_hypercall 41234\r\nBENCH port_io 5\nSUCCESS\n"
    assert guest.parse(output) == {"null_hypercall": 41234, "port_io": 5}


@pytest.mark.parametrize("line", ["BENCH null_hypercall", "BENCH null_hypercall -1", "BENCH a b c"])
def test_a_line_of_the_guests_that_is_not_so(line: str) -> None:
    with pytest.raises(ValueError, match="the guest printed"):
        guest.parse(line)


def test_what_a_guest_pays_is_in_microseconds() -> None:
    runs = [
        (dict.fromkeys(guest.OPERATIONS, value), dict.fromkeys(guest.OPERATIONS, 100_000))
        for value in (40_000, 50_000, 42_000)
    ]
    rows = guest.report(guest.OPERATIONS, runs).splitlines()[2:]
    assert len(rows) == len(guest.OPERATIONS)
    figures = "42.0 (40.0-50.0) | 100.0 (100.0-100.0) | 0.420 (0.400-0.500)"
    assert rows[0] == f"| null hypercall (`xen_version`) | {figures} |"


def test_the_guests_memory_is_not_the_processs_own() -> None:
    assert resident(SMAPS) == {"guest": 102_400, "own": 100, "private": 96}


def make_boot(scale: int) -> boot.Boot:
    ends = {stage: scale * (n + 1) * 10**9 for n, stage in enumerate(boot.STAGES)}
    figures = {
        "exits": {"syscall": 1000 * scale, "#DE": 100},
        "exits_total": 1100 * scale,
        "hypercalls": {"mmu_update": 900 * scale} | ({"iret": 101} if scale > 1 else {}),
        "memory_kib": {"guest": 2048 * scale, "own": 1024, "private": 512},
    }
    return boot.Boot(boot.durations(ends), figures)


def test_stages_are_between_their_ends() -> None:
    durations = make_boot(2).stages
    assert durations == dict.fromkeys(boot.STAGES, 2.0)
    assert make_boot(2).to_init == 2.0 * (len(boot.STAGES) - 1)


def test_stages_and_their_sum_are_shown() -> None:
    rows = boot.times({"6.1": [make_boot(1), make_boot(3), make_boot(2)]}).splitlines()
    assert rows[0] == "| seconds | 6.1 |"
    assert rows[2] == "| Python starts and imports | 2.00 (1.00-3.00) |"
    assert rows[-1] == "| **command to init** | 10.00 (5.00-15.00) |"


def test_counts_of_more_than_a_hundred_are_shown() -> None:
    rows = boot.counts({"6.1": [make_boot(1)], "6.12": [make_boot(2)]}).splitlines()[2:]
    assert rows == [
        "| **exits** | 1,100 | 2,200 |",
        "| `syscall` | 1,000 | 2,000 |",
        "| hypercall `mmu_update` | 900 | 1,800 |",
        "| hypercall `iret` | 0 | 101 |",
    ]


def test_memory_is_in_mebibytes() -> None:
    rows = boot.memory({"6.1": [make_boot(1)]}).splitlines()[2:]
    assert rows == [
        "| the guest's | 2.0 (2.0-2.0) |",
        "| the process's own | 1.0 (1.0-1.0) |",
        "| of which shared with no other process | 0.5 (0.5-0.5) |",
    ]


def test_packets_are_by_the_second_and_costs_by_the_packet() -> None:
    times = Pair(Sample((0.5, 1.0, 2.0)), Sample((0.25, 1.0, 1.0)))
    result = net.Result("out", 1514, 10_000, times, 100, 50, 400, copied=30_280_000)
    row = net.report([result]).splitlines()[-1]
    assert row == (
        "| out, 1,514 bytes | 10,000 (5,000-20,000) | 15 (8-30) | 2.00 (1.00-2.00) "
        "| 0.0100 | 0.0050 | 0.0400 | 3,028 |"
    )


def test_the_client_of_the_xenstore_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_SECONDS", 0.01)
    monkeypatch.setattr(measure, "DOMAINS", 3)
    try:
        client = measure.Client.build(tmp_path)
    except Unavailable as error:
        pytest.skip(str(error))
    with measure.ours(tmp_path) as path:
        client.fill(path, range(120))
        for operation in measure.OPERATIONS:
            for clients in (1, 5):
                rate, cost = client.rate(path, operation, 120, clients)
                assert rate > 0
                assert cost > 0
        seconds, again = client.start(path)
        assert seconds > 0
        assert again == 0


def test_xenstores_are_compared() -> None:
    ours = measure.Taken.of([(2000.0, 7.5), (3000.0, 7.5)])
    other = measure.Taken.of([(1000.0, 11.25), (3000.0, 9.25)])
    rates = {
        (operation, nodes, 1): {"kvmxen": ours, "other": other}
        for operation in measure.OPERATIONS
        for nodes in measure.NODES
    }
    lines = measure.rate_table(rates, 1, ["other"]).splitlines()
    assert lines[0].startswith("| one client, thousands/s | kvmxen | other | to other | us of CPU")
    assert lines[2] == "| read, 10 nodes | 2.5 | 2.0 | 1.50 (1.00-2.00) | 7.5 / 10.2 |"
    assert len(lines) == 2 + len(rates)


def test_the_balloons_cost_is_cpu_time() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    stat = f"12 (a) b) S {' '.join(['1'] * 10)} {2 * ticks} {3 * ticks} 9 9"
    assert balloon.cpu_seconds(stat) == 5.0
    runs = {"idle": [{"give": 1.0, "take": 2.0}], "busy": [{"give": 1.5, "take": 3.0}]}
    assert balloon.report(runs).splitlines()[2:] == [
        "| a GiB is given back, s | 1.00 (1.00-1.00) | 1.50 (1.50-1.50) |",
        "| it is taken again, s | 2.00 (2.00-2.00) | 3.00 (3.00-3.00) |",
    ]


def test_a_disks_table_compares_requests_a_second() -> None:
    job = block.JOBS[0]
    times = Pair(Sample((job.total / 100.0, job.total / 50.0)), Sample((job.total / 200.0,) * 2))
    row = block.Result(job, times, 1.0, 0.5, 2.25, 256.0).row()
    assert row == [job.name, "75 (50-100)", "0.38 (0.25-0.50)", "1.000", "0.500", "2.25", "256"]


def test_a_guests_disk_is_compared_and_its_costs_are_by_the_request() -> None:
    disk = dict.fromkeys(block.COUNTS, 7) | {"reads": 3, "writes": 4}
    stats = {"exits_total": 14, "vbd/51712": disk, "vif/0": {}}
    counts = guest_block.figures(stats)
    assert counts == dict.fromkeys((*block.COUNTS, "requests"), 7) | {"exits": 14}
    job = block.JOBS[0]
    times = Pair(Sample((job.total / 50.0,)), Sample((job.total / 200.0,)))
    each = {name: count / counts["requests"] for name, count in counts.items()}
    assert guest_block.report([guest_block.Result(job, times, each)]).splitlines()[-1] == (
        f"| {job.name} | 50 (50-50) | 0.25 (0.25-0.25) | 2.000 | 1.000 | 1.000 | 1.00 | 1 |"
    )


def test_fio_says_how_many_requests_a_second() -> None:
    fields = [str(number) for number in range(130)]
    read, write = block.JOBS[0], block.JOBS[3]
    assert block.fio_seconds(read, ";".join(fields)) == read.total / 7
    assert block.fio_seconds(write, ";".join(fields)) == write.total / 48


def test_a_disks_frontend_reads_and_writes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "SIZE", 8 << 20)
    monkeypatch.setattr(block, "_CACHE", "writeback")
    bench = block.Bench(tmp_path)
    counts = dict.fromkeys(block.COUNTS, 0)
    before = bench.file.read_bytes()
    for pages in (1, 32):
        for write in (False, True):
            assert bench.ring(block.Job("", write, True, pages, 4, 40), counts) > 0
    after = bench.file.read_bytes()
    # The larger requests wrote zeros from the frontend's pages up to there.
    assert after[: 40 * 32 * 4096] == bytes(40 * 32 * 4096)
    assert after[40 * 32 * 4096 :] == before[40 * 32 * 4096 :]
    assert 0 < counts["notifications"] <= 160
    assert counts["bytes_copied"] == 2 * 40 * 32 * 8
