/* The user side: copied to USER_CODE, %rdi is the address there of the 32-bit code to run. */
#include "compat.h"

    .section .rodata
    .global user_start, user_end
    .global by_int, behind_int, by_syscall, behind_syscall, by_sysenter, behind_sysenter
    .global stepping, behind_step, nested, behind_nested
user_start:
    push    $FLAT_USER_CS32
    push    %rdi
    lretq

    .code32
.macro registers
    mov     $USER_EBX, %ebx
    mov     $USER_EDX, %edx
    mov     $USER_ESI, %esi
    mov     $USER_EDI, %edi
    mov     %esp, %ebp                  /* for SYSENTER, which keeps neither it nor the way back */
.endm
.macro with_flag flag
    pushf
    orl     $\flag, (%esp)
    popf
.endm

by_int:
    registers
    int     $CALL
behind_int:
    int     $DONE
by_syscall:
    registers
    syscall
behind_syscall:
    int     $DONE
by_sysenter:
    registers
    sysenter
behind_sysenter:
    int     $DONE
stepping:
    registers
    with_flag TF
    sysenter
behind_step:
    int     $DONE
nested:
    registers
    with_flag NT
    sysenter
behind_nested:
    int     $DONE
user_end:
    .section .note.GNU-stack, "", @progbits
