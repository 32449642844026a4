/* An event upcall whose last act before its iret is C code: see lib/start.S for the frames. */
#include "xen.h"

    .text
    .global loop_entry
loop_entry:
    pop     %rcx
    pop     %r11
    push    %rax
    push    %rcx
    push    %rdx
    push    %rsi
    push    %rdi
    push    %r8
    push    %r9
    push    %r10
    push    %r11
    push    %rbp
    cld
    mov     %rsp, %rbp
    and     $-16, %rsp
    call    loop_upcall
    mov     %rbp, %rsp
    pop     %rbp
    pop     %r11
    pop     %r10
    pop     %r9
    pop     %r8
    pop     %rdi
    pop     %rsi
    pop     %rdx
    pop     %rcx
    pop     %rax
    push    $0
    push    %rcx
    push    %r11
    push    %rax
    mov     $HYPERVISOR_iret, %eax
    syscall
    ud2

    .section .note.GNU-stack, "", @progbits
