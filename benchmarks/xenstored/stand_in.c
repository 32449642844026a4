/*
 * Preloaded into Debian's xenstored and oxenstored, so that they run without Xen: in place of
 * the libraries for event channels, grants and control, without any event, and with the files
 * of the daemons under $STAND_IN rather than in the system's folders.
 *
 * Built and used by the benchmarks and the tests alone. Names and types are those of Xen's
 * tools/include/{xenevtchn,xengnttab,xenctrl}.h.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE 4096
#define NEXT(function) ((typeof(&function))dlsym(RTLD_NEXT, #function))

static int handle;

/* Event channels: a descriptor that never has an event. */

void *xenevtchn_open(void *logger, unsigned flags)
{
    (void)logger, (void)flags;
    return &handle;
}

void *xenevtchn_fdopen(void *logger, int fd, unsigned flags)
{
    (void)logger, (void)fd, (void)flags;
    return &handle;
}

int xenevtchn_close(void *evtchn)
{
    (void)evtchn;
    return 0;
}

int xenevtchn_fd(void *evtchn)
{
    static int fd = -1;

    (void)evtchn;
    if (fd < 0)
        fd = eventfd(0, 0);
    return fd;
}

int xenevtchn_notify(void *evtchn, uint32_t port)
{
    (void)evtchn, (void)port;
    return 0;
}

int xenevtchn_unbind(void *evtchn, uint32_t port)
{
    (void)evtchn, (void)port;
    return 0;
}

int xenevtchn_unmask(void *evtchn, uint32_t port)
{
    (void)evtchn, (void)port;
    return 0;
}

int xenevtchn_pending(void *evtchn)
{
    (void)evtchn;
    return -1;
}

static int next_port(void)
{
    static int port;

    return ++port;
}

int xenevtchn_bind_interdomain(void *evtchn, uint32_t domain, uint32_t port)
{
    (void)evtchn, (void)domain, (void)port;
    return next_port();
}

int xenevtchn_bind_virq(void *evtchn, unsigned virq)
{
    (void)evtchn, (void)virq;
    return next_port();
}

/* Grants and foreign memory: pages of our own. */

static void *page(void)
{
    void *where = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return where == MAP_FAILED ? NULL : where;
}

void *xengnttab_open(void *logger, unsigned flags)
{
    (void)logger, (void)flags;
    return &handle;
}

int xengnttab_close(void *gnttab)
{
    (void)gnttab;
    return 0;
}

int xengnttab_set_max_grants(void *gnttab, uint32_t count)
{
    (void)gnttab, (void)count;
    return 0;
}

void *xengnttab_map_grant_ref(void *gnttab, uint32_t domain, uint32_t reference, int protection)
{
    (void)gnttab, (void)domain, (void)reference, (void)protection;
    return page();
}

int xengnttab_unmap(void *gnttab, void *start, uint32_t count)
{
    (void)gnttab;
    return munmap(start, (size_t)count * PAGE);
}

void *xc_interface_open(void *logger, void *other, unsigned flags)
{
    (void)logger, (void)other, (void)flags;
    return &handle;
}

int xc_interface_close(void *xc)
{
    (void)xc;
    return 0;
}

/* Every domain exists: of its xc_dominfo_t only the beginning is looked at. */
int xc_domain_getinfo(void *xc, uint32_t first, unsigned count, void *info)
{
    (void)xc, (void)count;
    memset(info, 0, 32);
    *(uint32_t *)info = first;
    return 1;
}

int xc_domain_getinfolist(void *xc, uint32_t first, unsigned count, void *info)
{
    (void)xc, (void)first, (void)count, (void)info;
    return 0;
}

void *xc_map_foreign_range(void *xc, uint32_t domain, int size, int protection, unsigned long mfn)
{
    (void)xc, (void)domain, (void)size, (void)protection, (void)mfn;
    return page();
}

/* Files. */

static const char *moved(const char *path, char *buffer)
{
    static const char *const system[] = { "/var/run/", "/var/lib/", "/var/log/", "/proc/xen/" };
    const char *folder = getenv("STAND_IN");

    for (size_t i = 0; folder && i < sizeof system / sizeof *system; i++)
        if (strncmp(path, system[i], strlen(system[i])) == 0) {
            snprintf(buffer, PATH_MAX, "%s%s", folder, path);
            return buffer;
        }
    return path;
}

static mode_t mode_of(int flags, va_list rest)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

int open(const char *path, int flags, ...)
{
    char buffer[PATH_MAX];
    va_list rest;

    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return NEXT(open)(moved(path, buffer), flags, mode);
}

int open64(const char *path, int flags, ...)
{
    char buffer[PATH_MAX];
    va_list rest;

    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    return NEXT(open64)(moved(path, buffer), flags, mode);
}

int mkdir(const char *path, mode_t mode)
{
    char buffer[PATH_MAX];

    return NEXT(mkdir)(moved(path, buffer), mode);
}

int unlink(const char *path)
{
    char buffer[PATH_MAX];

    return NEXT(unlink)(moved(path, buffer));
}

int rename(const char *from, const char *to)
{
    char from_buffer[PATH_MAX], to_buffer[PATH_MAX];

    return NEXT(rename)(moved(from, from_buffer), moved(to, to_buffer));
}

int chmod(const char *path, mode_t mode)
{
    char buffer[PATH_MAX];

    return NEXT(chmod)(moved(path, buffer), mode);
}

/* An address has room for 107 bytes: the daemon starts in the folder where its socket is to be. */
int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    struct sockaddr_un here = { AF_UNIX, "socket" };

    if (address->sa_family == AF_UNIX) {
        address = (const struct sockaddr *)&here;
        length = sizeof here;
    }
    return NEXT(bind)(fd, address, length);
}

/* oxenstored insists on more open files than others than root may have. */
int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    (void)resource, (void)limit;
    return 0;
}

int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit)
{
    (void)resource, (void)limit;
    return 0;
}
