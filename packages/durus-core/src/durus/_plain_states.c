/* Unpickling of plain states: most objects hold numbers, texts, containers of those, and references.

   An Unpickler takes several times as long to be made as such a state takes to be read, and cannot be
   used twice. What is read here is read as by an Unpickler; at anything else, an error included,
   nothing is given, and an Unpickler reads the state from its beginning. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include "_plain_states.h"

enum { ROOM_AT_FIRST = 32 };

/* A growing array of owned references. */
typedef struct {
    PyObject **items;
    Py_ssize_t count;
    Py_ssize_t room;
    PyObject *first[ROOM_AT_FIRST];
} Objects;

typedef struct {
    const unsigned char *text, *end;
    Objects stack, memo;
    Py_ssize_t marks[16];
    int depth;
    PyObject *find_class, *find_object; /* borrowed */
} Reading;

/* What a step gives: ERROR has set an exception, UNKNOWN has not. */
typedef enum { ERROR = -1, UNKNOWN = 0, DONE = 1 } Outcome;

static void
objects_init(Objects *objects)
{
    objects->items = objects->first;
    objects->count = 0;
    objects->room = ROOM_AT_FIRST;
}

static void
objects_clear(Objects *objects)
{
    while (objects->count > 0) {
        Py_DECREF(objects->items[--objects->count]);
    }
    if (objects->items != objects->first) {
        PyMem_Free(objects->items);
    }
}

/* Takes over the reference, which may be NULL: then an exception is set. */
static Outcome
push(Objects *objects, PyObject *value)
{
    if (value == NULL) {
        return ERROR;
    }
    if (objects->count == objects->room) {
        PyObject **old = objects->items == objects->first ? NULL : objects->items;
        PyObject **items = PyMem_Realloc(old, sizeof(PyObject *) * objects->room * 2);
        if (items == NULL) {
            Py_DECREF(value);
            PyErr_NoMemory();
            return ERROR;
        }
        if (old == NULL) {
            memcpy(items, objects->first, sizeof(objects->first));
        }
        objects->items = items;
        objects->room *= 2;
    }
    objects->items[objects->count++] = value;
    return DONE;
}

/* Where the values begin that a step may take: after the last mark. */
static Py_ssize_t
fence(const Reading *reading)
{
    return reading->depth > 0 ? reading->marks[reading->depth - 1] : 0;
}

static int
has_values(const Reading *reading, Py_ssize_t count)
{
    return reading->stack.count - fence(reading) >= count;
}

static PyObject *
top(const Reading *reading, Py_ssize_t below)
{
    return reading->stack.items[reading->stack.count - 1 - below];
}

static void
drop(Reading *reading, Py_ssize_t count)
{
    for (; count > 0; count--) {
        Py_DECREF(reading->stack.items[--reading->stack.count]);
    }
}

/* Read a number of `bytes` bytes, little-endian; -1 if there are not so many, or it is too large. */
static Py_ssize_t
read_number(Reading *reading, int bytes)
{
    if (reading->end - reading->text < bytes) {
        return -1;
    }
    uint32_t number = 0;
    for (int i = bytes - 1; i >= 0; i--) {
        number = number << 8 | reading->text[i];
    }
    reading->text += bytes;
    return number > INT32_MAX ? -1 : (Py_ssize_t)number;
}

/* Give the next `length` bytes, or NULL if there are not so many. */
static const char *
read_bytes(Reading *reading, Py_ssize_t length)
{
    if (length < 0 || reading->end - reading->text < length) {
        return NULL;
    }
    const char *text = (const char *)reading->text;
    reading->text += length;
    return text;
}

static Outcome
push_text(Reading *reading, int length_bytes)
{
    Py_ssize_t length = read_number(reading, length_bytes);
    const char *text = read_bytes(reading, length);
    return text == NULL ? UNKNOWN
                        : push(&reading->stack, PyUnicode_DecodeUTF8(text, length, "surrogatepass"));
}

static Outcome
push_bytes(Reading *reading, int length_bytes)
{
    Py_ssize_t length = read_number(reading, length_bytes);
    const char *text = read_bytes(reading, length);
    return text == NULL ? UNKNOWN
                        : push(&reading->stack, PyBytes_FromStringAndSize(text, length));
}

static Outcome
push_small_int(Reading *reading, int bytes)
{
    Py_ssize_t number = read_number(reading, bytes);
    return number < 0 ? UNKNOWN : push(&reading->stack, PyLong_FromSsize_t(number));
}

/* Up to 8 bytes, little-endian, signed. */
static Outcome
push_int(Reading *reading, Py_ssize_t bytes)
{
    const unsigned char *text = (const unsigned char *)read_bytes(reading, bytes);
    if (text == NULL || bytes < 1 || bytes > 8) {
        return UNKNOWN;
    }
    uint64_t number = text[bytes - 1] & 128 ? UINT64_MAX : 0;
    for (Py_ssize_t i = bytes - 1; i >= 0; i--) {
        number = number << 8 | text[i];
    }
    return push(&reading->stack, PyLong_FromLongLong((long long)number));
}

static Outcome
push_float(Reading *reading)
{
    const char *text = read_bytes(reading, 8);
    if (text == NULL) {
        return UNKNOWN;
    }
    double number = PyFloat_Unpack8(text, 0);
    return number == -1.0 && PyErr_Occurred() ? ERROR
                                              : push(&reading->stack, PyFloat_FromDouble(number));
}

static Outcome
push_memo(Reading *reading, int bytes)
{
    Py_ssize_t index = read_number(reading, bytes);
    if (index < 0 || index >= reading->memo.count) {
        return UNKNOWN;
    }
    return push(&reading->stack, Py_NewRef(reading->memo.items[index]));
}

static Outcome
memoize(Reading *reading)
{
    return has_values(reading, 1) ? push(&reading->memo, Py_NewRef(top(reading, 0))) : UNKNOWN;
}

static Outcome
mark(Reading *reading)
{
    if (reading->depth == (int)Py_ARRAY_LENGTH(reading->marks)) {
        return UNKNOWN;
    }
    reading->marks[reading->depth++] = reading->stack.count;
    return DONE;
}

/* Make a tuple of the topmost values. */
static Outcome
make_tuple(Reading *reading, Py_ssize_t count)
{
    if (!has_values(reading, count)) {
        return UNKNOWN;
    }
    PyObject *tuple = PyTuple_New(count);
    if (tuple == NULL) {
        return ERROR;
    }
    reading->stack.count -= count;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyTuple_SET_ITEM(tuple, i, reading->stack.items[reading->stack.count + i]);
    }
    return push(&reading->stack, tuple);
}

/* Take the last mark away, and give how many values are above it; -1 if there is none. */
static Py_ssize_t
unmark(Reading *reading)
{
    if (reading->depth == 0) {
        return -1;
    }
    return reading->stack.count - reading->marks[--reading->depth];
}

/* Put the topmost values into the dict below them. */
static Outcome
set_items(Reading *reading, Py_ssize_t count)
{
    if (count < 0 || count % 2 || !has_values(reading, count + 1)
        || !PyDict_CheckExact(top(reading, count))) {
        return UNKNOWN;
    }
    PyObject *dict = top(reading, count);
    for (Py_ssize_t below = count - 1; below > 0; below -= 2) {
        if (PyDict_SetItem(dict, top(reading, below), top(reading, below - 1)) < 0) {
            return ERROR;
        }
    }
    drop(reading, count);
    return DONE;
}

static Outcome
append(Reading *reading, Py_ssize_t count)
{
    if (count < 0 || !has_values(reading, count + 1) || !PyList_CheckExact(top(reading, count))) {
        return UNKNOWN;
    }
    PyObject *list = top(reading, count);
    for (Py_ssize_t below = count - 1; below >= 0; below--) {
        if (PyList_Append(list, top(reading, below)) < 0) {
            return ERROR;
        }
    }
    drop(reading, count);
    return DONE;
}

static Outcome
push_class(Reading *reading)
{
    if (!has_values(reading, 2) || !PyUnicode_CheckExact(top(reading, 0))
        || !PyUnicode_CheckExact(top(reading, 1))) {
        return UNKNOWN;
    }
    PyObject *names[] = {top(reading, 1), top(reading, 0)};
    PyObject *found = PyObject_Vectorcall(reading->find_class, names, 2, NULL);
    drop(reading, 2);
    return push(&reading->stack, found);
}

static Outcome
push_object(Reading *reading)
{
    if (!has_values(reading, 1)) {
        return UNKNOWN;
    }
    PyObject *found = PyObject_CallOneArg(reading->find_object, top(reading, 0));
    drop(reading, 1);
    return push(&reading->stack, found);
}

static Outcome
step(Reading *reading, unsigned char opcode)
{
    Objects *stack = &reading->stack;
    switch (opcode) {
    case 'N': return push(stack, Py_NewRef(Py_None));
    case 0x88: return push(stack, Py_NewRef(Py_True));
    case 0x89: return push(stack, Py_NewRef(Py_False));
    case 'K': return push_small_int(reading, 1);
    case 'M': return push_small_int(reading, 2);
    case 'J': return push_int(reading, 4);
    case 0x8a: return push_int(reading, read_number(reading, 1));
    case 'G': return push_float(reading);
    case 0x8c: return push_text(reading, 1);
    case 'X': return push_text(reading, 4);
    case 'C': return push_bytes(reading, 1);
    case 'B': return push_bytes(reading, 4);
    case ')': return push(stack, PyTuple_New(0));
    case ']': return push(stack, PyList_New(0));
    case '}': return push(stack, PyDict_New());
    case '(': return mark(reading);
    case 0x94: return memoize(reading);
    case 'h': return push_memo(reading, 1);
    case 'j': return push_memo(reading, 4);
    case 0x85: return make_tuple(reading, 1);
    case 0x86: return make_tuple(reading, 2);
    case 0x87: return make_tuple(reading, 3);
    case 't': {
        Py_ssize_t count = unmark(reading);
        return count < 0 ? UNKNOWN : make_tuple(reading, count);
    }
    case 's': return set_items(reading, 2);
    case 'u': return set_items(reading, unmark(reading));
    case 'a': return append(reading, 1);
    case 'e': return append(reading, unmark(reading));
    case 0x93: return push_class(reading);
    case 'Q': return push_object(reading);
    default: return UNKNOWN;
    }
}

/* Read to the end of the pickle; the state is on the stack then. */
static Outcome
read_all(Reading *reading)
{
    while (reading->text < reading->end) {
        unsigned char opcode = *reading->text++;
        if (opcode == '.') {
            return has_values(reading, 1) ? DONE : UNKNOWN;
        }
        Outcome outcome = step(reading, opcode);
        if (outcome != DONE) {
            return outcome;
        }
    }
    return UNKNOWN;
}

/* Give where the pickle of the state begins in data that promises a proof, NULL for other data. */
static const unsigned char *
find_pickle(const unsigned char *data, const unsigned char *end)
{
    if (end - data < 3 || memcmp(data, "\x80\x04" "c", 3) != 0) {
        return NULL;
    }
    const unsigned char *newline = memchr(data + 3, '\n', end - data - 3);
    newline = newline == NULL ? NULL : memchr(newline + 1, '\n', end - newline - 1);
    /* The newline, STOP, and how a pickle of protocol 4 begins. */
    if (newline == NULL || end - newline < 4 || memcmp(newline + 2, "\x80\x04", 2) != 0) {
        return NULL;
    }
    return newline + 4;
}

PyObject *
read_plain(const unsigned char *data, Py_ssize_t length, PyObject *find_class,
           PyObject *find_object)
{
    const unsigned char *end = data + length - 4; /* without the proof */
    const unsigned char *start = length > 4 ? find_pickle(data, end) : NULL;
    if (start == NULL) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    Reading reading = {.text = start, .end = end, .depth = 0,
                       .find_class = find_class, .find_object = find_object};
    objects_init(&reading.stack);
    objects_init(&reading.memo);
    Outcome outcome = read_all(&reading);
    PyObject *state = outcome == DONE ? Py_NewRef(top(&reading, 0)) : NULL;
    if (outcome == ERROR && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();
        outcome = UNKNOWN;
    }
    if (outcome != ERROR) {
        /* What they hold may end with them, and run any code: not while an exception is set. */
        objects_clear(&reading.stack);
        objects_clear(&reading.memo);
        return outcome == DONE ? state : Py_NewRef(Py_NotImplemented);
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    objects_clear(&reading.stack);
    objects_clear(&reading.memo);
    PyErr_Restore(type, value, traceback);
    return NULL;
}

static PyObject *
read_plain_state(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError,
                        "read_plain_state takes data, which is bytes, find_class and find_object");
        return NULL;
    }
    return read_plain((const unsigned char *)PyBytes_AS_STRING(args[0]), PyBytes_GET_SIZE(args[0]),
                      args[1], args[2]);
}

static PyMethodDef functions[] = {
    {"read_plain_state", (PyCFunction)(void (*)(void))read_plain_state, METH_FASTCALL,
     "read_plain_state(data, find_class, find_object)\n\n"
     "Give the state in a record's data that promises a proof and holds only what is usual: what an\n"
     "Unpickler would give, or NotImplemented."},
    {NULL},
};

int
add_plain_states(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
