/* Instructions of a guest's kernel that trap because it runs in ring 3, as kvmxen/emulate.py has
 * them: those of one byte that Linux has by the thousand before it patches itself.
 */
#include "dispatch.h"

#define OPCODE_cli 0xfa
#define OPCODE_sti 0xfb

int general_protection(state *s, frame *f)
{
    const u8 *code = translate(s->kernel_cr3, f->rip, false);

    if (f->error_code || !s->kernel_mode || !code || (*code != OPCODE_cli && *code != OPCODE_sti))
        return HOST;
    f->rip++;
    return DONE;
}
