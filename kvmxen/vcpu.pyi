def install_kick(number: int) -> None: ...

class Vcpu:
    @property
    def index(self) -> int: ...
    @property
    def exits(self) -> int: ...
    @property
    def guest_ns(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def in_guest(self) -> bool: ...
    @property
    def entered(self) -> bool: ...
    @property
    def halted(self) -> bool: ...
    attention: bool
    rax: int
    rbx: int
    rcx: int
    rdx: int
    rsi: int
    rdi: int
    rsp: int
    rbp: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    rip: int
    rflags: int
    def interrupt(self) -> None: ...
