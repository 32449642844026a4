/* rdi SYSCALLs with rax 1, then one with rax 0. */
    .section .rodata
    .global user_start, user_end
user_start:
    mov     %rdi, %rbx
1:  mov     $1, %eax
    syscall
    dec     %rbx
    jnz     1b
    xor     %eax, %eax
    syscall
user_end:
    .section .note.GNU-stack, "", @progbits
