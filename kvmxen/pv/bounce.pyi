from kvmxen.pv.gate import PvVcpu
from kvmxen.pv.paging import PageTables

def bounce(
    vcpu: PvVcpu,
    tables: PageTables,
    info_gpa: int,
    kernel_sp: int,
    handler: int,
    mask_events: bool,
    error_code: int | None,
) -> None: ...
def iret(vcpu: PvVcpu, tables: PageTables, info_gpa: int) -> bool: ...
