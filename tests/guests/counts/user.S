/* rdi calls of the kernel's, then as many faults, which it mends; then a call with rax 0. */
    .section .rodata
    .global user_start, user_end
user_start:
    mov     %rdi, %rbx
    shr     $32, %rbx
    mov     %edi, %edi
1:  test    %rdi, %rdi
    jz      2f
    dec     %rdi
    mov     $1, %eax
    syscall
    jmp     1b
2:  test    %rbx, %rbx
    jz      3f
    dec     %rbx
    mov     0x10000000, %eax            /* seven bytes, which the kernel steps over */
    jmp     2b
3:  xor     %eax, %eax
    syscall
user_end:
    .section .note.GNU-stack, "", @progbits
