/* The gate: the shim's ring-0 part, one page at SHIM_VA. It decides nothing.
 *
 * Every trap enters a stub through an IDT gate with IST 1, every interrupt one with IST 2, so
 * that the hardware's frame lies at the same place of the vCPU's part whatever the guest did to
 * its stack. There are four gates, which differ in what their stubs do:
 *
 *   exits    tells the host the vector by the port that it writes; the host does the rest
 *   ring0    saves the registers and calls the dispatcher, which runs in ring 0
 *   kernel   goes on to the dispatcher in ring 3, where ring 0 is interpreted; seen by the
 *   user     guest's kernel and by its user code, which has the kernel's tables loaded first
 *
 * The way into the guest is a list on a work stack: addresses of the operations below, each
 * followed by its arguments, the last one op_return with %rax and an iretq frame. %rax is the
 * only register that operations use. Offsets: shim/abi.h.
 */
#include "abi.h"

#define WITH_ERROR_CODE 0x60227d00
#define HAS_ERROR_CODE(vector) ((vector) < 32 && (WITH_ERROR_CODE >> (vector)) & 1)
/* Where the trap stack stands when a stub has pushed what the dispatcher wants. */
        .set PUSHED, VCPU_TRAP_STACK_END - 56
        .set PUSHED_ERROR, VCPU_TRAP_STACK_END - 64
        .set PUSHED_FAULT, VCPU_TRAP_STACK_END - 72

.macro tell_host vector
        out     %al, $\vector
.endm

.macro operations
        .org GATE_OP_RETURN
        pop     %rax
        .org GATE_IRET
        iretq

        /* Shadow-paging hosts notice a change of a live page-table entry only when the guest
         * itself writes to it: store the value that is there already, atomically. */
        .org GATE_OP_TOUCH
        pop     %rax
        lock orq $0, (%rax)
        ret

        .org GATE_OP_INVLPG
        pop     %rax
        invlpg  (%rax)
        ret

        .org GATE_OP_CR3
        pop     %rax
        mov     %rax, %cr3
        ret

        .org GATE_OP_CR0
        pop     %rax
        mov     %rax, %cr0
        ret

        .org GATE_OP_SWAPGS
        swapgs
        ret

        /* The interrupt that ends the wait enters its stub; the host never returns here. */
        .org GATE_OP_HALT
        sti
1:      hlt
        jmp     1b

        /* Arguments: the MSR's number and the two halves of its value. */
        .org GATE_OP_WRMSR
        xchg    %rcx, (%rsp)
        xchg    %rdx, 8(%rsp)
        mov     16(%rsp), %rax
        wrmsr
        pop     %rcx
        pop     %rdx
        pop     %rax
        ret

        .org GATE_OP_USER_GS
        pop     %rax
        swapgs
        mov     %eax, %gs
        swapgs
        ret
.endm

/* From a user's trap on in the kernel's address space, in which this page stands at the same
 * place: it must be the same code there. */
.macro enter_kernel_by frame, from
        mov     %rax, %cr3
        swapgs
        add     $(\frame - \from), %rsp
        iretq
.endm
.macro enter_kernel
        .org GATE_ENTER_KERNEL
        enter_kernel_by VCPU_TRAP_FRAME, PUSHED
        .org GATE_ENTER_KERNEL + 0x10
        enter_kernel_by VCPU_TRAP_ERROR_FRAME, PUSHED_ERROR
        .org GATE_ENTER_KERNEL + 0x20
        enter_kernel_by VCPU_TRAP_ERROR_FRAME, PUSHED_FAULT
.endm

/* Push what the dispatcher's entries of the syscall page want: vector, %rax, CR2. */
.macro push_trap
        push    $vector
        push    %rax
        .if vector == TRAP_PAGE_FAULT
        mov     %cr2, %rax
        push    %rax
        .endif
.endm

        .section .gate.exits, "ax"
        .set vector, 0
        .rept NR_STUBS
        .org GATE_STUBS + vector * STUB_SIZE
        .if vector == TRAP_PAGE_FAULT
        push    %rax
        mov     %cr2, %rax
        .endif
        tell_host vector
        .set vector, vector + 1
        .endr
        operations
        .org GATE_SIZE

        .section .gate.ring0, "ax"
        .set vector, 0
        .rept NR_STUBS
        .org GATE_STUBS + vector * STUB_SIZE
        .if vector == STUB_DONE
        tell_host vector
        .else
        .if HAS_ERROR_CODE(vector) == 0
        push    $0
        .endif
        push    $vector
        .if vector == TRAP_PAGE_FAULT
        push    %rax
        mov     %cr2, %rax
        xchg    %rax, (%rsp)
        .else
        push    $0
        .endif
        push    %rax
        movabs  $enter_trap, %rax
        jmp     *%rax
        .endif
        .set vector, vector + 1
        .endr
        operations
        .org GATE_SIZE

        .section .gate.kernel, "ax"
        .set vector, 0
        .rept NR_STUBS
        .org GATE_STUBS + vector * STUB_SIZE
        .if vector >= STUB_DONE
        tell_host vector
        .else
        .if vector >= STUB_EVENT
        tell_host (vector + STUB_KERNEL)
        .else
        .if vector == 3
        jmp     breakpoint
        .else
        push_trap
        .if vector == TRAP_PAGE_FAULT
        add     $(VCPU_TRAP_ERROR_FRAME - PUSHED_FAULT), %rsp
        .else
        .if HAS_ERROR_CODE(vector)
        add     $(VCPU_TRAP_ERROR_FRAME - PUSHED_ERROR), %rsp
        .else
        add     $(VCPU_TRAP_FRAME - PUSHED), %rsp
        .endif
        .endif
        iretq
        .endif
        .endif
        .endif
        .set vector, vector + 1
        .endr
        operations
        enter_kernel
        .balign 16
        /* The dispatcher's own traps, told by the low half of RIP: no kernel has code whose
         * addresses end like the shim's. */
breakpoint:
        cmpl    $(DISPATCHER + DISPATCHER_GATE + 1), (%rsp)
        je      1f
        cmpl    $(DISPATCHER + DISPATCHER_EXIT + 1), (%rsp)
        je      2f
        push    $3
        push    %rax
        add     $(VCPU_TRAP_FRAME - PUSHED), %rsp
        iretq
1:      add     $(VCPU_LIST - (VCPU_TRAP_STACK_END - 40)), %rsp
        ret
2:      tell_host (STUB_FRAME + STUB_KERNEL)
        .org GATE_SIZE

        .section .gate.user, "ax"
user_gate:
        .set vector, 0
        .rept NR_STUBS
        .org GATE_STUBS + vector * STUB_SIZE
        .if vector >= STUB_EVENT
        tell_host vector
        .else
        push_trap
        .if vector == TRAP_PAGE_FAULT
        mov     (VCPU_STATE - PUSHED_FAULT)(%rsp), %rax
        jmp     user_gate + GATE_ENTER_KERNEL + 0x20
        .else
        .if HAS_ERROR_CODE(vector)
        mov     (VCPU_STATE - PUSHED_ERROR)(%rsp), %rax
        jmp     user_gate + GATE_ENTER_KERNEL + 0x10
        .else
        mov     (VCPU_STATE - PUSHED)(%rsp), %rax
        jmp     user_gate + GATE_ENTER_KERNEL
        .endif
        .endif
        .endif
        .set vector, vector + 1
        .endr
        operations
        enter_kernel
        .org GATE_SIZE

        /* The page behind LSTAR where there is no dispatcher, executable in every ring: where
         * SYSCALL enters ring 0 and where it stays in ring 3, int3 goes on to a stub. */
        .section .syscall.trap, "ax"
        .org SYSCALL_ENTRY
        int3
        .org SYSCALL32_ENTRY
        int3
        .org GATE_SIZE
