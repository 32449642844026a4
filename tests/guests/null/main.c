/* A guest that starts, prints and powers off. */
#include "guest.h"

void guest_main(void)
{
    print("SUCCESS\n");
}
