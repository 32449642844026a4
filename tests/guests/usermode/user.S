/* The user side: copied to USER_CODE. rax is a call's number, rdi its argument. */
    .section .rodata
    .global user_start, user_end
user_start:
    mov     $0x1234, %ebx
    push    %rdi                        /* the argument of user_run, on the user stack */
    pop     %rsi
    mov     $1, %eax                    /* 1: report rdi, rsi, rbx */
    mov     $0x77, %edi
    syscall
    cmp     $0x88, %rax                 /* what the kernel answers */
    jne     5f
    cmp     $0x1234, %ebx
    jne     5f

    mov     $2, %eax                    /* 2: what may be read: rdi the address; faults skip it */
    mov     $0xffffffff80000000, %rdi   /* the kernel's image */
    mov     (%rdi), %rcx
    syscall
    mov     $3, %eax                    /* 3: the same by a store */
    mov     %rcx, (%rdi)
    syscall
    mov     $4, %eax                    /* 4: a privileged instruction */
    hlt
    syscall
    mov     $6, %eax                    /* 6: a long loop, for upcalls to come in */
1:  syscall
    mov     $1000000, %ecx
2:  dec     %ecx
    jnz     2b
    jmp     1b
5:  mov     $5, %eax                    /* 5: wrong */
    syscall
user_end:
    .section .note.GNU-stack, "", @progbits
