/* 32-bit user code: system calls by int 0x80 and by the vDSO, as its C libraries make them, and the
 * registers that these keep; with an argument also DS and ES. Without it, it goes by SS alone: some
 * hosts lose the others of such code. Its exit status is 0, or the number of what went wrong.
 */
        .set EXIT, 1
        .set GETPID, 20
        .set NANOSLEEP, 162
        .set MMAP2, 192
        .set AT_SYSINFO, 32
        .set ROUNDS, 300
        .set USER_DS, 0x2b

.macro fail_unless condition, status
        mov     $\status, %ebx
        j\condition 9f
        jmp     leave
9:
.endm

        .globl  _start
_start:
        mov     (%esp), %eax
        mov     %esp, %ebp
        /* The auxiliary vector is behind two lists that end with 0. */
1:      add     $4, %ebp
        cmpl    $0, (%ebp)
        jne     1b
1:      add     $4, %ebp
        cmpl    $0, (%ebp)
        jne     1b
        sub     $4, %ebp
1:      add     $8, %ebp
        cmpl    $AT_SYSINFO, (%ebp)
        je      found
        cmpl    $0, (%ebp)
        jne     1b
        mov     $1, %ebx
        jmp     leave
found:
        push    4(%ebp)                 /* __kernel_vsyscall */
        push    %eax                    /* argc */
        cmpl    $2, (%esp)
        jne     1f
        call    segments
1:
        mov     $GETPID, %eax
        int     $0x80
        cmp     $0, %eax
        fail_unless g, 2
        push    %eax
        push    $ROUNDS
        mov     %esp, %ebp              /* rounds, pid, argc, vsyscall */
1:      mov     $GETPID, %eax
        call    *12(%ebp)
        cmp     %eax, 4(%ebp)
        fail_unless e, 3
        decl    (%ebp)
        jnz     1b

        /* All six arguments: mmap2(0, 4096, read and write, private and anonymous, -1, 0). */
        mov     $MMAP2, %eax
        xor     %ebx, %ebx
        mov     $4096, %ecx
        mov     $3, %edx
        mov     $0x22, %esi
        mov     $-1, %edi
        push    %ebp
        push    12(%ebp)
        xor     %ebp, %ebp
        call    *(%esp)
        test    $4095, %eax
        fail_unless z, 4
        cmp     $4096, %ecx
        fail_unless e, 5
        cmp     $3, %edx
        fail_unless e, 6
        cmp     $0x22, %esi
        fail_unless e, 7
        cmp     $-1, %edi
        fail_unless e, 8
        test    %ebp, %ebp
        fail_unless z, 9
        add     $4, %esp
        pop     %ebp
        cmpl    $2, 8(%ebp)
        jne     1f
        call    segments
        call    sleep
        call    segments
1:      xor     %ebx, %ebx
leave:
        mov     $EXIT, %eax
        int     $0x80

segments:
        mov     %ds, %ecx
        cmp     $USER_DS, %ecx
        fail_unless e, 10
        mov     %es, %ecx
        cmp     $USER_DS, %ecx
        fail_unless e, 11
        incl    variable                /* by DS */
        ret

sleep:
        push    $20000000               /* ns */
        push    $0
        mov     $NANOSLEEP, %eax
        mov     %esp, %ebx
        xor     %ecx, %ecx
        int     $0x80
        test    %eax, %eax
        fail_unless z, 12
        add     $8, %esp
        ret

        .bss
variable:
        .long   0
        .section .note.GNU-stack, "", @progbits
