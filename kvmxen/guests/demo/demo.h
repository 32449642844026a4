/* The demo guest: one table, built row by row. */
#pragma once

#include "guest.h"

void table_title(const char *title);
void table_section(const char *name);
void table_row(const char *label, const char *format, ...) __attribute__((format(printf, 2, 3)));
void table_end(void);

struct spread {
    u64 min, median, max; /* ns */
};
struct spread spread_of(u64 *samples, size_t count); /* sorts them */

/* Each fills a section of the table, or fails the guest with what does not work. */
void show_xen(void);
void show_memory(void);
void show_xenstore(void);
void show_timer(void);
void show_events(void);
void show_costs(void);
