/*
 * Entry points: the boot vCPU's, further vCPUs', traps, upcalls and user mode.
 *
 * Xen bounces a trap or an upcall to { rcx, r11, [error code], rip, cs, rflags, rsp, ss } on the
 * kernel's stack; the hypercall iret takes { rax, r11, rcx, flags, rip, cs, rflags, rsp, ss }
 * (xen/include/public/arch-x86/xen-x86_64.h).
 */
#include "xen.h"
#include "entry.h"

.macro note type, desc:vararg
    .pushsection .note.xen, "a", @note
    .balign 4
    .long 2f - 1f, 4f - 3f, \type
1:  .asciz "Xen"
2:  .balign 4
3:  \desc
4:  .balign 4
    .popsection
.endm

    note 6, .asciz "kvmxen"                     /* GUEST_OS */
    note 7, .asciz "1"                          /* GUEST_VERSION */
    note 8, .asciz "generic"                    /* LOADER */
    note 5, .asciz "xen-3.0"                    /* XEN_VERSION */
    note 3, .quad virt_base                     /* VIRT_BASE */
    note 4, .quad 0                             /* PADDR_OFFSET: p_paddr counts from 0 */
    note 1, .quad _start                        /* ENTRY */

    .text
    .global _start
_start:                                         /* rsi: start_info */
    cld
    mov     $stacks + BOOT_STACK_SIZE, %rsp
    xor     %ebp, %ebp
    mov     %rsi, %rdi
    call    start
    ud2

    .global cpu_entry
cpu_entry:                                      /* rdi: vCPU, rsi: its function */
    xor     %ebp, %ebp
    call    *%rsi
    ud2

    .balign 16
trap_entries:
    .set    vector, 0
    .rept   256
    .balign 16
    pop     %rcx
    pop     %r11
    .if     vector >= 32 || !((TRAPS_WITH_ERROR_CODE >> (vector & 31)) & 1)
    push    $0
    .endif
    push    $vector
    jmp     save
    .set    vector, vector + 1
    .endr

    .global event_entry
event_entry:
    pop     %rcx
    pop     %r11
    push    $0
    push    $EVENT_UPCALL
    jmp     save

    .global syscall_entry
syscall_entry:
    pop     %rcx
    pop     %r11
    push    $0
    push    $USER_SYSCALL

save:
    push    %rdi
    push    %rsi
    push    %rdx
    push    %rcx
    push    %rax
    push    %r8
    push    %r9
    push    %r10
    push    %r11
    push    %rbx
    push    %rbp
    push    %r12
    push    %r13
    push    %r14
    push    %r15
    cld
    mov     %rsp, %rdi
    mov     %rsp, %rbp
    and     $-16, %rsp
    call    dispatch
    mov     %rbp, %rsp
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %rbp
    pop     %rbx
    pop     %r11
    pop     %r10
    pop     %r9
    pop     %r8
    pop     %rax
    pop     %rcx
    pop     %rdx
    pop     %rsi
    pop     %rdi
    add     $16, %rsp                           /* vector, error code */
    push    $0
    push    %rcx
    push    %r11
    push    %rax
    mov     $HYPERVISOR_iret, %eax
    syscall
    ud2

    .global failsafe_entry
failsafe_entry:                                 /* a selector could not be loaded: ours all can */
    and     $-16, %rsp
    call    failsafe
    ud2

/* void user_enter(u64 rip, u64 rsp, u64 argument): back when user_leave() is called. */
    .global user_enter
user_enter:
    push    %rbx
    push    %rbp
    push    %r12
    push    %r13
    push    %r14
    push    %r15
    mov     %rsp, user_kernel_sp(%rip)
    mov     %rdi, %rbx
    mov     %rsi, %r12
    mov     %rdx, %r13
    mov     $FLAT_KERNEL_SS, %edi
    mov     %rsp, %rsi
    mov     $HYPERVISOR_stack_switch, %eax
    syscall
    push    $FLAT_USER_SS
    push    %r12
    push    $(EFL_IF | EFL_FIXED)               /* upcalls on */
    push    $FLAT_USER_CS
    push    %rbx
    push    $0
    push    $0
    push    $0
    push    $0
    mov     %r13, %rdi
    mov     $HYPERVISOR_iret, %eax
    syscall
    ud2

    .global user_leave
user_leave:
    mov     user_kernel_sp(%rip), %rsp
    pop     %r15
    pop     %r14
    pop     %r13
    pop     %r12
    pop     %rbp
    pop     %rbx
    ret

    .section .rodata
    .global trap_stubs
    .balign 8
trap_stubs:
    .set    vector, 0
    .rept   256
    .quad   trap_entries + 16 * vector
    .set    vector, vector + 1
    .endr

    .bss
    .global stacks
    .balign BOOT_STACK_SIZE
stacks:
    .skip   32 * BOOT_STACK_SIZE
user_kernel_sp:
    .skip   8

    .section .note.GNU-stack, "", @progbits
