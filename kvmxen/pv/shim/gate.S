/* The gate: the shim's ring-0 part, one page at SHIM_VA. It decides nothing.
 *
 * Every trap enters a stub through an IDT gate with IST 1, every interrupt one with IST 2, so
 * that the hardware's frame lies at the same place of the vCPU's part whatever the guest did to
 * its stack. A debug exception has IST 3 and goes to the host in every gate: one that user code had
 * held back by `mov ss` comes at the first instruction of whatever ring 0 is entered by, and must
 * not overwrite the frame there. There are four gates, which differ in what their stubs do:
 *
 *   exits    tells the host the vector by the port that it writes; the host does the rest
 *   ring0    saves the registers and calls the dispatcher, which runs in ring 0
 *   kernel   goes on to the dispatcher in ring 3, where ring 0 is interpreted; seen by the
 *   user     guest's kernel and by its user code, which has the kernel's tables loaded first
 *
 * The host's way into the guest is a list on a work stack: addresses of the operations below, each
 * followed by its arguments, the last one op_return with %rax and an iretq frame. %rax is the
 * only register that operations use. A dispatcher in ring 3 calls single operations, and has a way
 * of its own to user code. Offsets: shim/abi.h.
 */
#include "xen/abi/x86.h"
#include "xen/abi/xen.h"
#include "abi.h"

#define HAS_ERROR_CODE(vector) ((vector) < 32 && (TRAPS_WITH_ERROR_CODE >> (vector)) & 1)
/* Where the trap stack stands when the CPU, or a stub, has pushed what the dispatcher wants. */
        .set TRAPPED, VCPU_TRAP_STACK_END - 40
        .set PUSHED, TRAPPED - 16
        .set PUSHED_ERROR, TRAPPED - 24
        .set PUSHED_BREAKPOINT, TRAPPED - 8
        .set PUSHED_FAULT, TRAPPED - 24
/* Of a stub of the user gate: the bytes that load the kernel's tables, and where they end in that
 * of int3. */
        .set LOAD_KERNEL, 11
        .set BREAKPOINT_TAIL, 12

.macro tell_host vector
        out     %al, $\vector
.endm

/* Ends in the shim, if it was that which met the exception and the host has seen it. */
.macro debug_stub port
        tell_host \port
        iretq
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

/* An operation for a dispatcher in ring 3, which traps with the operation's address in %rdi. */
.macro calls
        .org GATE_CALL_INVLPG
        invlpg  (%rax)
        iretq
        .org GATE_CALL_CR3
        mov     %rax, %cr3
        iretq
        .org GATE_CALL_CR0
        mov     %rax, %cr0
        iretq
        .org GATE_CALL_WRMSR
        wrmsr
        iretq
        .org GATE_CALL_USER_GS
        swapgs
        mov     %ecx, %gs
        swapgs
        mov     $MSR_KERNEL_GS_BASE, %ecx
        wrmsr
        iretq
.endm

/* Push what the dispatcher's entries of the syscall page want: the vector, if it is not one of the
 * two that have entries of their own; %rax; CR2. */
.macro push_trap
        .if vector != TRAP_BREAKPOINT && vector != TRAP_PAGE_FAULT
        push    $vector
        .endif
        push    %rax
        .if vector == TRAP_PAGE_FAULT
        mov     %cr2, %rax
        push    %rax
        .endif
.endm

/* On to the dispatcher in ring 3, by the frame of that entry. */
.macro enter_dispatcher
        .if vector == TRAP_BREAKPOINT
        add     $(VCPU_BREAKPOINT_FRAME - PUSHED_BREAKPOINT), %rsp
        .elseif vector == TRAP_PAGE_FAULT
        add     $(VCPU_PAGE_FAULT_FRAME - PUSHED_FAULT), %rsp
        .elseif HAS_ERROR_CODE(vector)
        add     $(VCPU_TRAP_ERROR_FRAME - PUSHED_ERROR), %rsp
        .else
        add     $(VCPU_TRAP_FRAME - PUSHED), %rsp
        .endif
        iretq
.endm

/* From the kernel's address space on in the user's, where the dispatcher has left the frame. */
.macro leave_to_user
        mov     %rax, %cr3
        swapgs
        add     $(VCPU_LEAVE_FRAME - TRAPPED), %rsp
        pop     %rax
        iretq
.endm

/* Without a dispatcher in ring 0. Both instructions leave the registers alone but for those of the
 * way back, which the host finds in them. */
.macro tell_system_calls
        .org GATE_SYSCALL32
        tell_host TRAP_SYSCALL32
        .org GATE_SYSENTER
        tell_host TRAP_SYSENTER
.endm

        .section .gate.exits, "ax"
        .set vector, 0
        .rept NR_STUBS
        .org GATE_STUBS + vector * STUB_SIZE
        .if vector == TRAP_DEBUG
        debug_stub TRAP_DEBUG
        .else
        .if vector == TRAP_PAGE_FAULT
        push    %rax
        mov     %cr2, %rax
        .endif
        tell_host vector
        .endif
        .set vector, vector + 1
        .endr
        operations
        tell_system_calls
        .org GATE_SIZE

        .section .gate.ring0, "ax"
        .set vector, 0
        .rept NR_STUBS
        .org GATE_STUBS + vector * STUB_SIZE
        .if vector == STUB_DONE
        tell_host vector
        .elseif vector == TRAP_DEBUG
        debug_stub TRAP_DEBUG
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
        /* Which vCPU it is on a trap's stack tells. */
        .org GATE_SYSCALL32
        int3
        /* The stack begins below %ss and %rsp. What was in these, in %cs and in %rip nobody knows: as
         * Xen, guess the first and give null for the others. A step of the guest's is in the flags,
         * and ends here; NT would make iretq fault. */
        .org GATE_SYSENTER
        pushf
        push    $2
        popf
        movq    $FLAT_RING3_SS, 16(%rsp)
        movq    $0, 8(%rsp)
        push    $3
        push    $0
        push    $0
        push    $TRAP_SYSENTER
        push    $0
        push    %rax
        movabs  $enter_trap, %rax
        jmp     *%rax
        .org GATE_SIZE

        /* The user gate goes on here once it has loaded the kernel's tables, and the kernel gate
         * there with the user's: both have the same code at the same place from then on. */
        .section .gate.kernel, "ax"
        .set vector, 0
        .rept NR_STUBS
        .org GATE_STUBS + vector * STUB_SIZE
        .if vector >= STUB_DONE
        tell_host vector
        .elseif vector >= STUB_EVENT
        tell_host (vector + STUB_KERNEL)
        .elseif vector == TRAP_DEBUG
        debug_stub (TRAP_DEBUG + STUB_KERNEL)
        .elseif vector == TRAP_BREAKPOINT
        /* The dispatcher's own traps, told by the low half of RIP: no kernel has code whose
         * addresses end like the shim's. */
        cmpl    $(DISPATCHER + DISPATCHER_LEAVE + 1), (%rsp)
        je      leave
        jmp     breakpoint
        .org GATE_STUBS + vector * STUB_SIZE + BREAKPOINT_TAIL
        swapgs
        enter_dispatcher
leave:  leave_to_user
breakpoint:
        cmpl    $(DISPATCHER + DISPATCHER_GATE + 1), (%rsp)
        jne     guests_own
        jmp     *%rdi
        .else
        push_trap
        jmp     2f
        .skip   LOAD_KERNEL - 2
        swapgs
2:      enter_dispatcher
        .endif
        .set vector, vector + 1
        .endr
        operations
        calls
guests_own:
        cmpl    $(DISPATCHER + DISPATCHER_EXIT + 1), (%rsp)
        je      1f
        .set vector, TRAP_BREAKPOINT
        push_trap
        enter_dispatcher
1:      tell_host (STUB_FRAME + STUB_KERNEL)
        tell_system_calls
        .org GATE_SIZE

        .section .gate.user, "ax"
        .set vector, 0
        .rept NR_STUBS
        .org GATE_STUBS + vector * STUB_SIZE
        .if vector >= STUB_EVENT
        tell_host vector
        .elseif vector == TRAP_DEBUG
        debug_stub TRAP_DEBUG
        .else
        push_trap
        .if vector == TRAP_BREAKPOINT
        mov     (VCPU_STATE - PUSHED_BREAKPOINT)(%rsp), %rax
        .elseif vector == TRAP_PAGE_FAULT
        mov     (VCPU_STATE - PUSHED_FAULT)(%rsp), %rax
        .elseif HAS_ERROR_CODE(vector)
        mov     (VCPU_STATE - PUSHED_ERROR)(%rsp), %rax
        .else
        mov     (VCPU_STATE - PUSHED)(%rsp), %rax
        .endif
        mov     %rax, %cr3
        swapgs
        enter_dispatcher
        .if vector == TRAP_BREAKPOINT
        leave_to_user
        .endif
        .endif
        .set vector, vector + 1
        .endr
        operations
        tell_system_calls
        .org GATE_SIZE

        /* The page behind LSTAR where there is no dispatcher, executable in every ring: where
         * SYSCALL enters ring 0 and where it stays in ring 3, int3 goes on to a stub. */
        .section .syscall.trap, "ax"
        .org SYSCALL_ENTRY
        int3
        .org GATE_SIZE
