/* The user side: copied to USER_CODE, %rdi is the address there of what to run. */

#include "breakpoints.h"

    .section .rodata
    .global user_start, user_end
    .global user_store, behind_store, user_nop, behind_nop
    .global held_nop, behind_held_nop, held_int3, held_int, held_syscall
    .global held_syscall_32, held_sysenter_32
user_start:
    mov     $WATCHED, %ebx
    jmp     *%rdi

user_store:
    movq    $FLAT_USER_SS, (%rbx)
behind_store:
    int     $DONE
user_nop:
    nop
behind_nop:
    int     $DONE

.macro held
    mov     %ss:(%ebx), %ss             /* DS may be null */
.endm
held_nop:
    held
    nop
behind_held_nop:
    int     $DONE
held_int3:
    held
    int3
    int     $DONE
held_int:
    held
    int     $CALL
    int     $DONE
held_syscall:
    held
    syscall
    int     $DONE

.macro in_compat_mode
    push    $FLAT_USER_CS32
    lea     1f(%rip), %rax
    push    %rax
    lretq
    .code32
1:
.endm
held_syscall_32:
    in_compat_mode
    held
    syscall
    int     $DONE
    .code64
held_sysenter_32:
    in_compat_mode
    held
    sysenter
    int     $DONE
    .code64
user_end:
    .section .note.GNU-stack, "", @progbits
