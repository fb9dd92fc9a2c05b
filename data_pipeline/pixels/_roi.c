/* A box of a JPEG, the same pixels that decoding it whole gives. Around it only the Huffman codes are read.

   The decoder is the libjpeg-turbo inside Pillow's wheel, opened at run time: so building this takes a C
   compiler and Python's headers, nothing else. `use` opens the library, `read` decodes. A picture that is not
   of the plain kind, or in which libjpeg finds anything to complain about, is not read: `read` says False and
   the caller decodes it whole, the usual way.

   The rows below the box go through the Huffman decoder too, unless the caller knows these bytes to be sound:
   damage down there must be seen here as it is by a whole decode, or the same sample would be good on one
   machine and bad on another. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <dlfcn.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

/* The interface of libjpeg 6.2 as far as it is used here; what lies between is only counted. The library
   refuses another version and another size, and roi.py decodes a few pictures before it trusts the rest. */

enum { JPEG_VERSION = 62, GREY = 1, RGB = 2, YCBCR = 3, HEADER_OK = 1, BLOCK = 8 };

typedef struct {
    int id, index, across, down; /* samples per MCU, in blocks: the subsampling */
    int unused[15];
    void *tables[2];
} Component;

typedef struct Errors {
    void (*fatal)(void *);
    void (*message)(void *, int level);
    void (*unused[3])(void);
    int code;
    union { int number[8]; char text[80]; } with;
    int trace_level;
    long warnings;
    const void *texts;
    int last_text;
    const void *more_texts;
    int first_more, last_more;
} Errors;

typedef struct {
    Errors *errors;
    void *memory, *progress, *client;
    int is_decompressor, state;
    void *source;
    unsigned image_width, image_height;
    int components, colours, out_colours;
    unsigned scale, scale_of;
    double gamma;
    int flags_and_ways[12];
    unsigned width, height;
    int out_components[3], palette_colours;
    void *palette;
    unsigned row; /* the next one that is to come out */
    int scan, input_row, output_scan, output_row;
    void *coefficient_bits, *tables[12];
    int precision;
    Component *component;
    int progressive, arithmetic;
    unsigned char arithmetic_conditioning[48];
    unsigned restart_interval;
    int jfif;
    unsigned char jfif_version[3];
    unsigned short density[2];
    int adobe;
    unsigned char adobe_transform;
    int ccir601;
    void *markers;
    int most_across, most_down;
    int unused[2];
    void *range_limit, *scan_components[5];
    int mcu[18];
    void *modules[11];
} Decoder;

static struct {
    Errors *(*std_error)(Errors *);
    void (*create)(Decoder *, int version, size_t size);
    void (*mem_src)(Decoder *, const unsigned char *, unsigned long);
    int (*read_header)(Decoder *, int require_image);
    int (*has_multiple_scans)(Decoder *);
    int (*start)(Decoder *);
    void (*crop)(Decoder *, unsigned *left, unsigned *width);
    unsigned (*skip)(Decoder *, unsigned rows);
    unsigned (*rows)(Decoder *, unsigned char **, unsigned count);
    int (*finish)(Decoder *);
    void (*destroy)(Decoder *);
} jpeg;

typedef struct {
    Decoder decoder;
    Errors errors;
    jmp_buf out;
    unsigned char *line; /* a row of the box and its margins; kept here so that a jump does not lose it */
} Reading;

typedef struct {
    const unsigned char *data;
    size_t size;
    unsigned top, left, height, width; /* the box */
    int to_the_end;                    /* whether the rows below it are looked through for damage */
    unsigned char *to;                 /* height * width * 3 bytes */
} Order;

static void give_up(void *decoder)
{
    longjmp(((Reading *)decoder)->out, 1);
}

static void on_message(void *decoder, int level)
{
    if (level < 0) /* a warning: the data are damaged. Traces have levels from 0. */
        give_up(decoder);
}

/* Whether the picture is of a kind for which a box is known to equal the same box of the whole. */
static int is_plain(Decoder *d)
{
    const Component *c = d->component;
    if (d->precision != 8 || d->progressive || d->arithmetic || jpeg.has_multiple_scans(d))
        return 0;
    if (d->colours == GREY)
        return d->components == 1 && c->across == 1 && c->down == 1;
    if ((d->colours != YCBCR && d->colours != RGB) || d->components != 3)
        return 0;
    if (c[1].across != 1 || c[1].down != 1 || c[2].across != 1 || c[2].down != 1)
        return 0;
    return c[0].across * c[0].down <= 4 && c[0].across != 3 && c[0].down <= 2;
}

static int is_inside(const Decoder *d, const Order *o)
{
    return o->height <= d->image_height && o->top <= d->image_height - o->height
        && o->width <= d->image_width && o->left <= d->image_width - o->width;
}

static void pass_rows(Decoder *d, unsigned until)
{
    if (d->row < until)
        jpeg.skip(d, until - d->row);
}

static void read_row(Reading *r)
{
    if (jpeg.rows(&r->decoder, &r->line, 1) != 1)
        give_up(&r->decoder);
}

/* The box, row by row. Smooth upsampling looks at the neighbours, so a decoded area is right but for its
   edges: an MCU more is decoded on each side where there is one, and left behind. */
static void read_box(Reading *r, const Order *o)
{
    Decoder *d = &r->decoder;
    unsigned across = BLOCK * d->most_across, down = BLOCK * d->most_down;
    unsigned from = o->left > across ? o->left - across : 0;
    unsigned right = o->left + o->width;
    unsigned wide = (d->width - right > across ? right + across : d->width) - from;

    jpeg.crop(d, &from, &wide); /* moves `from` left, to where an MCU begins */
    r->line = malloc((size_t)3 * d->width);
    if (!r->line)
        give_up(d);
    pass_rows(d, o->top > down ? (o->top / down - 1) * down : 0);
    while (d->row < o->top)
        read_row(r);
    for (unsigned char *to = o->to; d->row < o->top + o->height; to += (size_t)3 * o->width) {
        read_row(r);
        memcpy(to, r->line + (size_t)3 * (o->left - from), (size_t)3 * o->width);
    }
}

/* Asked to skip to the very end libjpeg would not read at all, so the last row is decoded. */
static void read_rest(Reading *r)
{
    pass_rows(&r->decoder, r->decoder.height - 1);
    while (r->decoder.row < r->decoder.height)
        read_row(r);
    jpeg.finish(&r->decoder);
}

static void read_picture(Reading *r, const Order *o)
{
    Decoder *d = &r->decoder;
    jpeg.create(d, JPEG_VERSION, sizeof *d);
    jpeg.mem_src(d, o->data, o->size);
    if (jpeg.read_header(d, 1) != HEADER_OK || !is_plain(d) || !is_inside(d, o))
        give_up(d);
    d->out_colours = RGB;
    jpeg.start(d);
    read_box(r, o);
    if (o->to_the_end)
        read_rest(r);
}

/* Whether it came to the end. Nothing but `r` lives on both sides of the jump. */
static int came_through(Reading *r, const Order *o)
{
    if (setjmp(r->out))
        return 0;
    read_picture(r, o);
    return 1;
}

static int read_safely(const Order *o)
{
    Reading r;
    memset(&r, 0, sizeof r);
    r.decoder.errors = jpeg.std_error(&r.errors);
    r.errors.fatal = give_up;
    r.errors.message = on_message;
    int done = came_through(&r, o);
    jpeg.destroy(&r.decoder);
    free(r.line);
    return done;
}

static PyObject *roi_read(PyObject *self, PyObject *args)
{
    Py_buffer data, room;
    Order o;
    int done = -1;
    if (!PyArg_ParseTuple(args, "y*w*IIIIp", &data, &room,
                          &o.top, &o.left, &o.height, &o.width, &o.to_the_end))
        return NULL;
    if (jpeg.destroy && o.height && o.width && (size_t)room.len / 3 / o.height == o.width
        && (size_t)room.len == (size_t)3 * o.height * o.width) {
        o.data = data.buf;
        o.size = data.len;
        o.to = room.buf;
        Py_BEGIN_ALLOW_THREADS
        done = read_safely(&o);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&room);
    if (done >= 0)
        return PyBool_FromLong(done);
    PyErr_SetString(PyExc_ValueError, "no library is in use, or the room is not height * width * 3 bytes");
    return NULL;
}

static PyObject *roi_use(PyObject *self, PyObject *args)
{
    const char *path;
    if (!PyArg_ParseTuple(args, "s", &path))
        return NULL;
    const struct { const char *name; void *into; } wanted[] = {
        {"jpeg_std_error", &jpeg.std_error}, {"jpeg_CreateDecompress", &jpeg.create},
        {"jpeg_mem_src", &jpeg.mem_src}, {"jpeg_read_header", &jpeg.read_header},
        {"jpeg_has_multiple_scans", &jpeg.has_multiple_scans}, {"jpeg_start_decompress", &jpeg.start},
        {"jpeg_crop_scanline", &jpeg.crop}, {"jpeg_skip_scanlines", &jpeg.skip},
        {"jpeg_read_scanlines", &jpeg.rows}, {"jpeg_finish_decompress", &jpeg.finish},
        {"jpeg_destroy_decompress", &jpeg.destroy}, /* the last: where it is set, all are */
    };
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; library && i < sizeof wanted / sizeof *wanted; i++) {
        void *found = dlsym(library, wanted[i].name);
        if (!found)
            library = NULL;
        memcpy(wanted[i].into, &found, sizeof found);
    }
    if (library)
        Py_RETURN_NONE;
    const char *why = dlerror();
    PyErr_SetString(PyExc_OSError, why ? why : path);
    return NULL;
}

static PyMethodDef functions[] = {
    {"use", roi_use, METH_VARARGS, "use(path): takes libjpeg from this file. OSError."},
    {"read", roi_read, METH_VARARGS,
     "read(data, room, top, left, height, width, to_the_end): whether the box, RGB, was read into `room`."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_roi", .m_methods = functions};

PyMODINIT_FUNC PyInit__roi(void)
{
    return PyModule_Create(&module);
}
