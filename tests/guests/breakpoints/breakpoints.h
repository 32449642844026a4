/* What user code (user.S) and its kernel agree on. */
#pragma once

#include "xen.h"

#define CALL 0x80
#define DONE 0x81
/* On the user's stack page: a selector for %ss, which a breakpoint watches. */
#define WATCHED 0x401f00
