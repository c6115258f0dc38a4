/* PlainReader: an object from its record, all at once where nothing about it is unusual.

   Unusual is a record without a proof or with a wrong one, a class that was not met before, a state that
   _plain_states.c leaves to an Unpickler, and a class that sets its state in a way of its own. Then
   nothing is done, and the Connection goes step by step: it knows the errors. */

typedef struct {
    PyObject_HEAD
    Connection *connection; /* owned, as all below */
    PyObject *find_class, *find_object;
    PyObject *setstates; /* a set */
    PyObject *classes;   /* a dict */
    Py_ssize_t load_count;
} PlainReader;

static int
forget_error(void)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

/* Set the status and the attributes that an object is loaded with. */
static int
set_loaded(PlainReader *self, Persistent *obj, PyObject *state)
{
    int64_t serial = obj->serial;
    /* To what the garbage collector runs meanwhile it is in use, and no ghost. */
    obj->status = UNSAVED;
    obj->serial = self->connection->transaction_serial;
    int result = state == Py_None ? 0 : set_attributes((PyObject *)obj, state);
    obj->serial = serial;
    obj->status = result < 0 ? GHOST : SAVED;
    return result;
}

/* Load `obj` from the data of its record: 1 if that is done, 0 if it is for others, -1 for an error. */
static int
load_plain(PlainReader *self, Persistent *obj, const unsigned char *data, Py_ssize_t length)
{
    PyObject *setstate = _PyType_Lookup(Py_TYPE(obj), str_setstate);
    int is_plain = setstate == NULL ? 0 : PySet_Contains(self->setstates, setstate);
    if (is_plain <= 0) {
        return is_plain < 0 ? forget_error() : 0;
    }
    PyObject *state = read_plain(data, length, self->find_class, self->find_object);
    if (state == NULL) {
        return -1;
    }
    /* A BTree's node leaves out `_count`, which is hardly ever there. */
    int result = state == Py_None;
    if (obj->status != GHOST) {
        result = 0; /* loaded by what was run meanwhile */
    }
    else if (PyDict_CheckExact(state)) {
        int has_count = PyDict_Contains(state, str_count);
        result = has_count < 0 ? -1 : !has_count;
    }
    if (result < 0 || (result == 1 && set_loaded(self, obj, state) < 0)) {
        result = forget_error();
    }
    Py_DECREF(state);
    if (result == 1) {
        self->load_count++;
        note_use_in_ring(self->connection->cache, obj);
    }
    return result;
}

static PyObject *
PlainReader_load(PlainReader *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "load takes a persistent object and its record");
        return NULL;
    }
    if (check_persistent(args[0]) < 0) {
        return NULL;
    }
    Persistent *obj = (Persistent *)args[0];
    unsigned char oid[8];
    write_oid(oid, obj->oid);
    Py_ssize_t data_length, refs_length;
    const unsigned char *data = NULL;
    if (obj->has_oid && PyBytes_Check(args[1])) {
        data = find_proven(oid, args[1], &data_length, &refs_length);
    }
    int result = data == NULL ? 0 : load_plain(self, obj, data, data_length);
    return result < 0 ? NULL : PyBool_FromLong(result);
}

/* Give the class that data begins with, borrowed, or NULL if it was not met before. */
static PyObject *
find_known_class(PlainReader *self, const unsigned char *data, Py_ssize_t length)
{
    const unsigned char *end = data + length;
    const unsigned char *newline = memchr(data, '\n', (size_t)length);
    newline = newline == NULL ? NULL : memchr(newline + 1, '\n', (size_t)(end - newline - 1));
    if (newline == NULL || newline + 2 > end) {
        return NULL;
    }
    PyObject *pickled = PyBytes_FromStringAndSize((const char *)data, newline + 2 - data);
    if (pickled == NULL) {
        return NULL;
    }
    PyObject *klass = PyDict_GetItemWithError(self->classes, pickled);
    Py_DECREF(pickled);
    return klass != NULL && is_persistent_class(klass) ? klass : NULL;
}

static PyObject *
PlainReader_get(PlainReader *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "get takes an oid and a record");
        return NULL;
    }
    Py_ssize_t data_length, refs_length;
    const unsigned char *data = NULL;
    if (is_oid(args[0]) && PyBytes_Check(args[1])) {
        data = find_proven((const unsigned char *)PyBytes_AS_STRING(args[0]), args[1], &data_length,
                           &refs_length);
    }
    PyObject *klass = data == NULL ? NULL : find_known_class(self, data, data_length);
    if (klass == NULL) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    Py_INCREF(klass);
    PyObject *obj = get_instance(self->connection->cache, oid_from_bytes(args[0]), klass,
                                 (PyObject *)self->connection);
    Py_DECREF(klass);
    if (obj == NULL) {
        return NULL;
    }
    int result = load_plain(self, (Persistent *)obj, data, data_length);
    if (result == 1) {
        return obj;
    }
    Py_DECREF(obj);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
PlainReader_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"connection", "find_class", "find_object", "setstates", NULL};
    PyObject *connection, *find_class, *find_object, *setstates;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O!OOO!", names, &ConnectionType, &connection,
                                     &find_class, &find_object, &PySet_Type, &setstates)) {
        return NULL;
    }
    PyObject *classes = PyDict_New();
    PlainReader *self = classes == NULL ? NULL : (PlainReader *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(classes);
        return NULL;
    }
    self->connection = (Connection *)Py_NewRef(connection);
    self->find_class = Py_NewRef(find_class);
    self->find_object = Py_NewRef(find_object);
    self->setstates = Py_NewRef(setstates);
    self->classes = classes;
    return (PyObject *)self;
}

static int
PlainReader_traverse(PlainReader *self, visitproc visit, void *arg)
{
    Py_VISIT(self->connection);
    Py_VISIT(self->find_class);
    Py_VISIT(self->find_object);
    Py_VISIT(self->setstates);
    Py_VISIT(self->classes);
    return 0;
}

static void
PlainReader_dealloc(PlainReader *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->connection);
    Py_XDECREF(self->find_class);
    Py_XDECREF(self->find_object);
    Py_XDECREF(self->setstates);
    Py_XDECREF(self->classes);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef PlainReader_methods[] = {
    {"load", (PyCFunction)(void (*)(void))PlainReader_load, METH_FASTCALL,
     "load(obj, record)\n\nLoad a ghost. Give True, or False if nothing was done."},
    {"get", (PyCFunction)(void (*)(void))PlainReader_get, METH_FASTCALL,
     "get(oid, record)\n\nGive the object that a record is of, loaded. None if nothing was done."},
    {NULL},
};

static PyMemberDef PlainReader_members[] = {
    {"classes", T_OBJECT_EX, offsetof(PlainReader, classes), READONLY,
     "the pickle of a class, as records that promise a proof begin with, to that class"},
    {"load_count", T_PYSSIZET, offsetof(PlainReader, load_count), READONLY,
     "how many objects were loaded"},
    {NULL},
};

static PyTypeObject PlainReaderType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.PlainReader",
    .tp_doc = "PlainReader(connection, find_class, find_object, setstates)\n\n"
              "Makes objects of a Connection from records that prove themselves and hold only what is\n"
              "usual; `setstates` are the `__setstate__` that do what `set_state` does.",
    .tp_basicsize = sizeof(PlainReader),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = PlainReader_new,
    .tp_traverse = (traverseproc)PlainReader_traverse,
    .tp_dealloc = (destructor)PlainReader_dealloc,
    .tp_methods = PlainReader_methods,
    .tp_members = PlainReader_members,
};
