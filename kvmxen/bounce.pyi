from kvmxen.paging import PageTables
from kvmxen.vcpu import Vcpu

def bounce(
    vcpu: Vcpu,
    tables: PageTables,
    info_gpa: int,
    kernel_sp: int,
    handler: int,
    mask_events: bool,
    error_code: int | None,
) -> None: ...
def iret(vcpu: Vcpu, tables: PageTables, info_gpa: int) -> bool: ...
