/* The default guest of `kvmxen boot`: says where it is, tries what it finds, powers off. */
#include "demo.h"

void guest_main(void)
{
    table_title("a 64-bit Xen PV guest");
    show_xen();
    show_memory();
    show_xenstore();
    show_timer();
    show_events();
    show_costs();
    table_end();
}
