/* The dispatcher's ways in and out. The host leaves it by a gate's list; shim/dispatch.c has what
 * comes between. Offsets: shim/abi.h.
 */
#include "xen/abi/x86.h"
#include "xen/abi/xen.h"
#include "abi.h"

/* An address of the vCPU's part, from the page that stands at its VCPU_SYSCALL_PAGE. */
#define PART(offset) syscall_page + (offset) - VCPU_SYSCALL_PAGE
#define TRAPPED(offset) PART(VCPU_TRAP_STACK_END - (offset))(%rip)
#define TAKE_TRAP(error_code, vector, cr2, rax) \
        push TRAPPED(8); push TRAPPED(16); push TRAPPED(24); push TRAPPED(32); push TRAPPED(40); \
        push error_code; push vector; push cr2; push rax; jmp *entry(%rip)

        /* One page for all vCPUs: what it refers to is at the same distance for each. */
        .section .syscall.page, "ax"
syscall_page:
        .org SYSCALL_ENTRY
        mov     %rsp, PART(VCPU_FRAME_END - 16)(%rip)
        lea     PART(VCPU_FRAME_END - 16)(%rip), %rsp
        movq    $FLAT_RING3_SS, 8(%rsp)
        push    %r11
        push    $FLAT_RING3_CS64
        push    %rcx
        push    $0
        push    $TRAP_SYSCALL
        push    $0
        push    %rax
        jmp     *entry(%rip)

        /* From the kernel and user gates, which come here with an empty stack: take the frame
         * from theirs. */
        .org TRAP_ENTRY
        TAKE_TRAP($0, TRAPPED(48), $0, TRAPPED(56))
        .org TRAP_ERROR_ENTRY
        TAKE_TRAP(TRAPPED(48), TRAPPED(56), $0, TRAPPED(64))
        .org BREAKPOINT_ENTRY
        TAKE_TRAP($0, $TRAP_BREAKPOINT, $0, TRAPPED(48))
        .org PAGE_FAULT_ENTRY
        TAKE_TRAP(TRAPPED(48), $TRAP_PAGE_FAULT, TRAPPED(64), TRAPPED(56))
        .balign 8
entry:  .quad   enter_trap
        .org GATE_SIZE

        .section .dispatcher.entry, "ax"
        .org DISPATCHER_EXIT
exit:   int3
        .org DISPATCHER_GATE
        .globl  gate
gate:   int3
        ret

        .globl  enter_trap
enter_trap:
        push    %rdi
        push    %rsi
        push    %rdx
        push    %rcx
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
        push    $0
        cld
        mov     %rsp, %rdi
        call    dispatch
        test    %eax, %eax
        jz      resume
to_host:
        mov     %cs, %eax
        test    $3, %al
        jnz     exit
        out     %al, $STUB_FRAME

        .org DISPATCHER_RESUME
resume:
        mov     %rsp, %rdi
        call    finish
        test    %eax, %eax
        js      to_host
        pop     %r15
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
        pop     %rcx
        pop     %rdx
        pop     %rsi
        pop     %rdi
        pop     %rax
        lea     24(%rsp), %rsp
        jnz     1f
        iretq
        /* state.user_cr3 */
        .org DISPATCHER_LEAVE - 8
1:      mov     VCPU_STATE + 8 - (VCPU_FRAME_END - 40)(%rsp), %rax
        int3
