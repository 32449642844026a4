/* What the 32-bit code (user.S) and its kernel agree on. */
#pragma once

#include "xen.h"

#define CALL 0x80
#define DONE 0x81
#define TF EFL_TF
#define NT EFL_NT
#define USER_EBX 0x11111111
#define USER_EDX 0x22222222
#define USER_ESI 0x33333333
#define USER_EDI 0x44444444
