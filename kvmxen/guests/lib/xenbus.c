/* A device as its frontend sees it (xen/include/public/io/xenbus.h). */
#include "guest.h"

void xenbus_find(struct xenbus_device *device, const char *frontend)
{
    char path[160];
    format(device->frontend, sizeof device->frontend, "%s", frontend);
    format(path, sizeof path, "%s/backend", frontend);
    if (xs_read(XS_NO_TRANSACTION, path, device->backend, sizeof device->backend) <= 0)
        fail("%s cannot be read: %s", path, xs_error);
}

void xenbus_say(const struct xenbus_device *device, const char *key, const char *value)
{
    char path[160];
    format(path, sizeof path, "%s/%s", device->frontend, key);
    if (!xs_write(XS_NO_TRANSACTION, path, value))
        fail("%s cannot be written: %s", path, xs_error);
}

void xenbus_put(const struct xenbus_device *device, const char *key, u32 value)
{
    char text[16];
    format(text, sizeof text, "%u", value);
    xenbus_say(device, key, text);
}

bool xenbus_is(const struct xenbus_device *device, u32 state)
{
    char path[160], text[16];
    format(path, sizeof path, "%s/state", device->backend);
    return xs_read(XS_NO_TRANSACTION, path, text, sizeof text) == 1 && text[0] == '0' + (char)state;
}

void xenbus_await(const struct xenbus_device *device, u32 state)
{
    u64 end = now() + PATIENCE;
    while (!xenbus_is(device, state))
        if (now() > end)
            fail("%s does not come to state %u", device->backend, state);
}
