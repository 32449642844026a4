/* printf's useful part: %c %s %d %u %x %p %%, flags - 0 #, width, .precision of %s, l. */
#include "guest.h"

struct sink {
    char *to;
    size_t size, length;
};

static void put(struct sink *sink, char c)
{
    if (sink->length + 1 < sink->size)
        sink->to[sink->length] = c;
    sink->length++;
}

static void put_padded(struct sink *sink, const char *s, size_t length, size_t width, bool left)
{
    for (size_t i = length; !left && i < width; i++)
        put(sink, ' ');
    for (size_t i = 0; i < length; i++)
        put(sink, s[i]);
    for (size_t i = length; left && i < width; i++)
        put(sink, ' ');
}

/* Digits to the end of a buffer, with the prefix; the zeros of %0nu go in between. */
static void put_number(struct sink *sink, u64 value, u32 base, const char *prefix, size_t width,
                       bool zeros, bool left)
{
    char digits[72];
    size_t at = sizeof digits, prefixed = strlen(prefix);
    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    while (zeros && !left && sizeof digits - at + prefixed < width && at > prefixed)
        digits[--at] = '0';
    while (prefixed)
        digits[--at] = prefix[--prefixed];
    put_padded(sink, digits + at, sizeof digits - at, width, left);
}

int vformat(char *to, size_t size, const char *text, va_list args)
{
    struct sink sink = {to, size, 0};
    for (; *text; text++) {
        if (*text != '%') {
            put(&sink, *text);
            continue;
        }
        bool left = false, zeros = false, prefixed = false, is_long = false;
        size_t width = 0, precision = SIZE_MAX;
        for (text++; *text == '-' || *text == '0' || *text == '#'; text++) {
            left |= *text == '-';
            zeros |= *text == '0';
            prefixed |= *text == '#';
        }
        if (*text == '*')
            width = (size_t)va_arg(args, int), text++;
        for (; *text >= '0' && *text <= '9'; text++)
            width = width * 10 + (size_t)(*text - '0');
        if (*text == '.') {
            text++;
            if (*text == '*')
                precision = (size_t)va_arg(args, int), text++;
            else
                for (precision = 0; *text >= '0' && *text <= '9'; text++)
                    precision = precision * 10 + (size_t)(*text - '0');
        }
        for (; *text == 'l'; text++)
            is_long = true;

        switch (*text) {
        case 'c':
            put(&sink, (char)va_arg(args, int));
            break;
        case 's': {
            const char *s = va_arg(args, const char *);
            size_t length = 0;
            while (length < precision && s[length])
                length++;
            put_padded(&sink, s, length, width, left);
            break;
        }
        case 'd': {
            long value = is_long ? va_arg(args, long) : va_arg(args, int);
            u64 size_of = value < 0 ? -(u64)value : (u64)value;
            put_number(&sink, size_of, 10, value < 0 ? "-" : "", width, zeros, left);
            break;
        }
        case 'u':
        case 'x': {
            u64 value = is_long ? va_arg(args, u64) : va_arg(args, u32);
            bool hex = *text == 'x';
            put_number(&sink, value, hex ? 16 : 10, hex && prefixed ? "0x" : "", width, zeros,
                       left);
            break;
        }
        case 'p':
            put_number(&sink, (u64)va_arg(args, void *), 16, "0x", width, zeros, left);
            break;
        case '\0':
            text--;
            break;
        default:
            put(&sink, *text);
        }
    }
    if (size)
        to[sink.length < size ? sink.length : size - 1] = '\0';
    return (int)sink.length;
}

int format(char *to, size_t size, const char *text, ...)
{
    va_list args;
    va_start(args, text);
    int length = vformat(to, size, text, args);
    va_end(args);
    return length;
}
