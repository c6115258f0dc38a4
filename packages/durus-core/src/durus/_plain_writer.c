/* The record of an object whose attributes are numbers and short texts, all at once.

   What is written is what the pickler of ObjectWriter writes, byte for byte. To it go all other objects:
   those that refer to anything else, and those that are large. */

enum { LARGEST_PLAIN_STATE = 2048, MOST_PLAIN_TEXTS = 32 };

/* The pickle of a state while it is written, and what a pickler would have in its memo: the state, then
   texts, by their identity. */
typedef struct {
    unsigned char text[LARGEST_PLAIN_STATE];
    Py_ssize_t length;
    PyObject *memo[MOST_PLAIN_TEXTS]; /* borrowed from the state */
    int memo_count;
} PlainState;

/* Give room for `length` more bytes, or NULL if there is none. */
static unsigned char *
make_room(PlainState *pickled, Py_ssize_t length)
{
    if (length > LARGEST_PLAIN_STATE - pickled->length) {
        return NULL;
    }
    pickled->length += length;
    return pickled->text + pickled->length - length;
}

static int
put_opcode(PlainState *pickled, unsigned char opcode)
{
    unsigned char *room = make_room(pickled, 1);
    if (room != NULL) {
        *room = opcode;
    }
    return room != NULL;
}

/* Write an opcode and the lowest `bytes` bytes of a number, little-endian. */
static int
put_number(PlainState *pickled, unsigned char opcode, uint64_t number, int bytes)
{
    unsigned char *room = make_room(pickled, 1 + bytes);
    if (room == NULL) {
        return 0;
    }
    *room = opcode;
    for (int i = 1; i <= bytes; i++, number >>= 8) {
        room[i] = (unsigned char)number;
    }
    return 1;
}

static int
put_int(PlainState *pickled, PyObject *value)
{
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow) {
        return 0;
    }
    if (number >= 0 && number <= 0xff) {
        return put_number(pickled, 'K', (uint64_t)number, 1);
    }
    if (number >= 0 && number <= 0xffff) {
        return put_number(pickled, 'M', (uint64_t)number, 2);
    }
    if (number >= INT32_MIN && number <= INT32_MAX) {
        return put_number(pickled, 'J', (uint64_t)number, 4);
    }
    int bytes = 5;
    while (bytes < 8 && (number < -(1LL << (bytes * 8 - 1)) || number >= 1LL << (bytes * 8 - 1))) {
        bytes++;
    }
    unsigned char *room = put_number(pickled, 0x8a, (uint64_t)bytes, 1) ? make_room(pickled, bytes) : NULL;
    for (int i = 0; room != NULL && i < bytes; i++) {
        room[i] = (unsigned char)((uint64_t)number >> (8 * i));
    }
    return room != NULL;
}

static int
put_float(PlainState *pickled, PyObject *value)
{
    unsigned char *room = make_room(pickled, 9);
    if (room == NULL) {
        return 0;
    }
    *room = 'G';
    return PyFloat_Pack8(PyFloat_AS_DOUBLE(value), (char *)room + 1, 0) == 0;
}

/* Write the opcode that says how long a text is, the text, and that it is remembered. */
static int
put_text(PlainState *pickled, PyObject *value, unsigned char short_opcode, unsigned char opcode,
         const char *text, Py_ssize_t length)
{
    if (text == NULL || length > LARGEST_PLAIN_STATE || pickled->memo_count == MOST_PLAIN_TEXTS) {
        return 0;
    }
    int is_done = length <= 0xff ? put_number(pickled, short_opcode, (uint64_t)length, 1)
                                 : put_number(pickled, opcode, (uint64_t)length, 4);
    unsigned char *room = is_done ? make_room(pickled, length) : NULL;
    if (room == NULL) {
        return 0;
    }
    memcpy(room, text, (size_t)length);
    pickled->memo[pickled->memo_count++] = value;
    return put_opcode(pickled, 0x94);
}

static int
put_str(PlainState *pickled, PyObject *value)
{
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(value, &length);
    return put_text(pickled, value, 0x8c, 'X', text, length);
}

/* Give where a text is in the memo, or 0: the first is the state itself. */
static int
find_memo(const PlainState *pickled, PyObject *value)
{
    int place = pickled->memo_count - 1;
    while (place > 0 && pickled->memo[place] != value) {
        place--;
    }
    return place;
}

/* Write a value: 1 if that is done, 0 if it is not plain or there is no room, maybe with an exception. */
static int
put_value(PlainState *pickled, PyObject *value)
{
    if (value == Py_None) {
        return put_opcode(pickled, 'N');
    }
    if (PyBool_Check(value)) {
        return put_opcode(pickled, value == Py_True ? 0x88 : 0x89);
    }
    if (PyLong_CheckExact(value)) {
        return put_int(pickled, value);
    }
    if (PyFloat_CheckExact(value)) {
        return put_float(pickled, value);
    }
    int place = find_memo(pickled, value);
    if (place > 0) {
        return put_number(pickled, 'h', (uint64_t)place, 1);
    }
    if (PyUnicode_CheckExact(value)) {
        return put_str(pickled, value);
    }
    if (PyBytes_CheckExact(value)) {
        return put_text(pickled, value, 'C', 'B', PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
    }
    return 0;
}

static int
put_items(PlainState *pickled, PyObject *state)
{
    Py_ssize_t count = PyDict_GET_SIZE(state), position = 0;
    PyObject *name, *value;
    if (count > MOST_PLAIN_TEXTS || (count > 1 && !put_opcode(pickled, '('))) {
        return 0;
    }
    while (PyDict_Next(state, &position, &name, &value)) {
        if (!put_value(pickled, name) || !put_value(pickled, value)) {
            return 0;
        }
    }
    return count == 0 || put_opcode(pickled, count == 1 ? 's' : 'u');
}

static int
put_state(PlainState *pickled, PyObject *state)
{
    memcpy(pickled->text, "\x80\x04}\x94", 4);
    pickled->length = 4;
    pickled->memo[0] = state;
    pickled->memo_count = 1;
    return put_items(pickled, state) && put_opcode(pickled, '.');
}

static PyObject *
make_plain_record(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyBytes_Check(args[1]) || !PyTuple_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError,
                        "make_plain_record takes a persistent object, its class and its slots");
        return NULL;
    }
    PyObject *get_state_args[] = {args[0], args[2]};
    PyObject *state = get_state(module, get_state_args, 2);
    if (state == NULL) {
        return NULL;
    }
    Persistent *obj = (Persistent *)args[0];
    PlainState pickled;
    PyObject *record = NULL;
    if (obj->has_oid && put_state(&pickled, state)) {
        unsigned char oid[8];
        write_oid(oid, obj->oid);
        record = build_record(oid, args[1], pickled.text, 0, pickled.length, NULL, 0);
    }
    else {
        PyErr_Clear(); /* the pickler will find what is wrong */
        record = Py_NewRef(Py_None);
    }
    Py_DECREF(state);
    return record;
}
