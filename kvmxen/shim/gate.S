/* The gate: the shim's ring-0 part. It decides nothing.
 *
 * Every trap enters a stub through an IDT gate with IST 1, so that the hardware's frame lies
 * at the top of the vCPU's trap stack whatever the guest did to its own. The stub tells the
 * host the vector by the port that it writes; the host has the registers from KVM and the
 * frame from memory.
 *
 * The way back is a list that the host wrote on the vCPU's work stack: addresses of the
 * operations below, each followed by its argument, the last one op_return with %rax and an
 * iretq frame. %rax is the only register that operations use. Offsets: shim/abi.h.
 */
#include "abi.h"

        .section .text.gate, "ax"

        .org GATE_STUBS
        .set vector, 0
        .rept NR_STUBS
        .org GATE_STUBS + vector * STUB_SIZE
        .if vector == TRAP_PAGE_FAULT
        push    %rax
        mov     %cr2, %rax
        .endif
        out     %al, $vector
        .set vector, vector + 1
        .endr

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

        /* The page behind LSTAR, executable in every ring: where SYSCALL enters ring 0 and
         * where it stays in ring 3, int3 goes on to the breakpoint stub. */
        .org GATE_SIZE + SYSCALL_ENTRY
        int3
        .org GATE_SIZE + SYSCALL32_ENTRY
        int3
        .org GATE_SIZE * 2
