/* The attempts: rdi is an address of the kernel's choice, rsp a stack. */
#include "confined.h"

.macro attempt ends, name, code
    .pushsection .rodata.attempts, "a"
    .quad   91f, 92f - user_start, \ends
    .popsection
    .pushsection .rodata.names, "a"
91: .asciz  "\name"
    .popsection
92: \code
    jmp     survived
.endm

.macro privileged code:vararg
    attempt (GP | UD), "\code", "\code"
.endm

    .section .rodata.attempts, "a"
    .balign 8
    .global attempts, attempts_end
attempts:

    .section .rodata.user, "a"
    .global user_start, user_end, user_read, user_write, user_jump, user_push
    .global user_syscall_with, user_late_syscall, user_breakpoint
user_start:
    privileged lgdt (%rsp)
    privileged lidt (%rsp)
    privileged lldt %ax
    privileged ltr %ax
    privileged mov %rax, %cr0
    privileged mov %rax, %cr3
    privileged mov %rax, %cr4
    privileged mov %cr0, %rax
    privileged mov %cr3, %rax
    privileged mov %rax, %dr0
    privileged mov %dr7, %rax
    privileged lmsw %ax
    privileged clts
    privileged invd
    privileged wbinvd
    privileged invlpg (%rsp)
    privileged hlt
    privileged rdmsr
    privileged wrmsr
    privileged cli
    privileged sti
    privileged swapgs
    privileged sysretq
    privileged sysretl
    privileged sysexit
    privileged sysenter
    privileged rsm
    privileged xsetbv
    privileged monitor
    privileged mwait
    privileged vmrun
    privileged vmload
    privileged vmsave
    privileged stgi
    privileged clgi
    privileged in $0x20, %al
    privileged in %dx, %eax
    privileged out %al, $0x20
    privileged out %al, $0x23
    privileged out %al, $0x24
    privileged out %al, $0x60
    privileged out %al, $0x64
    privileged out %eax, %dx
    privileged outsb
    privileged insb
    attempt (GP | UD | HARMLESS), "vmcall", "vmcall"
    attempt (GP | UD | HARMLESS), "vmmcall", "vmmcall"
    attempt (GP | UD | HARMLESS), "rdpmc", "rdpmc"
    attempt HARMLESS, "sidt", "sidt (%rsp)"
    attempt HARMLESS, "cpuid", "cpuid"
    attempt UD, "ud2", "ud2"
    attempt (DB | UD), "int1", ".byte 0xf1"
    attempt BP, "int3", "int3"
    attempt (GP | GIVEN), "the vector of events", "int $0xe0"
    attempt (GP | GIVEN), "the vector of timers", "int $0xe1"
    attempt (GP | GIVEN), "the vector of faults", "int $14"
    attempt GP, "IOPL by popf", "push $0x3202; popf; cli"
    attempt GP, "IOPL by iret", "mov %rsp, %rax; push $0xe02b; push %rax; push $0x3202; push $0xe033; lea 1f(%rip), %rax; push %rax; iretq; 1: out %al, $0x20"
    attempt GP, "iret to the shim's code segment", "mov %rsp, %rax; push $0xe010; push %rax; pushf; push $0xe008; push %rdi; iretq"
    attempt GP, "iret to a code segment of ring 0", "mov %rsp, %rax; push $0xe02b; push %rax; pushf; push $0xe008; push %rdi; iretq"
    attempt GP, "iret to a stack of ring 0", "mov %rsp, %rax; push $0xe010; push %rax; pushf; push $0xe033; push %rdi; iretq"
    attempt GP, "iret to the task's segment", "mov %rsp, %rax; push $0xe02b; push %rax; pushf; push $0xe040; push %rdi; iretq"
    attempt (GP | UD), "a far return to ring 0", "push $0xe008; push %rdi; lretq"
    attempt (GP | UD), "a far jump to ring 0", "movl %edi, (%rsp); movw $0xe008, 4(%rsp); ljmp *(%rsp)"
    attempt (GP | UD), "a far jump to the task", "movl $0, (%rsp); movw $0xe040, 4(%rsp); ljmp *(%rsp)"
    attempt GP, "the stack of ring 0", "mov $0xe010, %eax; mov %eax, %ss"
    attempt GP, "code of ring 0 as data", "mov $0xe008, %eax; mov %eax, %ds"
    attempt GP, "the task's segment as data", "mov $0xe040, %eax; mov %eax, %es"
    attempt HARMLESS, "nothing", "nop"
survived:
    mov     %gs:0, %rbx
    mov     $SURVIVED, %eax
    syscall

user_read:
    mov     (%rdi), %rax
    jmp     survived
user_write:
    mov     %rax, (%rdi)
    jmp     survived
user_jump:
    jmp     *%rdi
user_push:
    mov     %rdi, %rsp
    push    %rax
    jmp     survived

    /* Loads the registers and flags at rdi; then a system call. */
user_syscall_with:
    mov     %rdi, %rsp
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %rbp
    pop     %rbx
    pop     %r10
    pop     %r9
    pop     %r8
    pop     %rax
    pop     %rdx
    pop     %rsi
    pop     %rdi
    popf
    pop     %rsp
    syscall

    /* To be at addresses that end like the dispatcher's own. */
user_breakpoint:
    int3
    jmp     survived

    /* A system call on the stack rdi, so late that the host's timer has come before. */
user_late_syscall:
    mov     %rdi, %rsp
    rdtsc
    mov     %eax, %ebx
3:  rdtsc
    sub     %ebx, %eax
    cmp     $20000000, %eax
    jb      3b
    syscall
    ud2
user_end:

    .section .rodata.attempts, "a"
attempts_end:
    .section .note.GNU-stack, "", @progbits
