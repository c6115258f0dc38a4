/* The hot parts in C: the twin of _pure.py, with the same names and behaviour.

   PersistentBase   attribute access that loads ghosts and notes uses and changes
   DictBase         the operators of a PersistentDict
   ConnectionBase   what the first access of an object in a transaction goes through
   Cache            oid to object, and the order of the last use
   ReferenceWriter, ReferenceReader, RecordFile   what a pickler and an unpickler call
   set_state, clear_state, proof_of, split_proven
   get_state, make_record   what a commit takes from an object and makes of its pickle
   PlainReader      an object from its record, in _plain_reader.c; most states are read by
                    _plain_states.c
   make_plain_record   the record of an object, in _plain_writer.c
   and what _btree_speedups.c has, the twin of _btree_pure.py

   An object's place in the Cache is in the object itself: the table holds a borrowed pointer that the
   object removes when it dies, and the ring of used objects is linked through the objects. So a ghost
   costs no weak reference, no key and no bytes object for its oid. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stdint.h>
#include "_plain_states.h"

enum { GHOST = -1, SAVED = 0, UNSAVED = 1 };

typedef struct Persistent Persistent;
typedef struct Cache Cache;
typedef struct Connection Connection;

struct Persistent {
    PyObject_HEAD
    Connection *connection; /* owned, or NULL */
    PyObject *weakrefs;
    Cache *cache; /* borrowed; the cache whose table this object is in, or NULL */
    Persistent *older, *newer; /* neighbours in the ring of used objects, or both NULL */
    uint64_t oid;
    int64_t serial;
    int8_t status;
    int8_t has_oid;
};

struct Cache {
    PyObject_HEAD
    Py_ssize_t size;
    Persistent **table; /* open addressing with linear probing; a power of two slots */
    size_t slots;
    size_t used;
    Persistent *oldest, *newest; /* the ring, owned references; not closed to a circle */
    Py_ssize_t recent;
};

struct Connection {
    PyObject_HEAD
    Cache *cache;      /* owned */
    PyObject *changed; /* owned dict: oid to object */
    long long transaction_serial;
    unsigned long owner;
};

static PyTypeObject PersistentType, CacheType, ConnectionType;

/* Looked up once, when the module is made. */
static PyObject *own_setattr, *own_delattr, *own_note_change;
static PyObject *str_setattr, *str_delattr, *str_note_change, *str_load_state, *str_set_ghost;
static PyObject *str_data, *str_missing, *str_refuse, *str_setstate, *str_count;
static PyObject *empty_tuple, *slow_types;
static PyObject *shaped_types; /* a set, which keeps them alive */
static PyTypeObject *last_shaped;
static PyObject *InvalidOidError, *ForeignObjectError, *UnpicklingError;

/* What CPython gives a class whose __setattr__ is not a C slot; known after the first class. */
static setattrofunc python_setattro = NULL;

/* -- oids ----------------------------------------------------------------------------------------- */

static void
write_oid(unsigned char text[8], uint64_t oid)
{
    for (int i = 7; i >= 0; i--, oid >>= 8) {
        text[i] = (unsigned char)oid;
    }
}

static PyObject *
oid_to_bytes(uint64_t oid)
{
    unsigned char text[8];
    write_oid(text, oid);
    return PyBytes_FromStringAndSize((char *)text, 8);
}

static int
is_oid(PyObject *value)
{
    return PyBytes_Check(value) && PyBytes_GET_SIZE(value) == 8;
}

static uint64_t
oid_from_bytes(PyObject *value)
{
    const unsigned char *text = (unsigned char *)PyBytes_AS_STRING(value);
    uint64_t oid = 0;
    for (int i = 0; i < 8; i++) {
        oid = oid << 8 | text[i];
    }
    return oid;
}

static void
refuse_oid(PyObject *value)
{
    PyObject *error = PyObject_CallOneArg(InvalidOidError, value);
    if (error != NULL) {
        PyErr_SetObject(InvalidOidError, error);
        Py_DECREF(error);
    }
}

static int
oid_argument(PyObject *value, uint64_t *oid)
{
    if (!is_oid(value)) {
        refuse_oid(value);
        return -1;
    }
    *oid = oid_from_bytes(value);
    return 0;
}

/* -- Cache: the table ------------------------------------------------------------------------------ */

static size_t
home_slot(const Cache *cache, uint64_t oid)
{
    /* Fibonacci hashing: neighbouring oids spread over the table. */
    return (size_t)((oid * UINT64_C(0x9E3779B97F4A7C15)) >> 20) & (cache->slots - 1);
}

/* Give the slot that holds `oid`, or the empty one where it would go. */
static size_t
find_slot(const Cache *cache, uint64_t oid)
{
    size_t slot = home_slot(cache, oid);
    while (cache->table[slot] != NULL && cache->table[slot]->oid != oid) {
        slot = (slot + 1) & (cache->slots - 1);
    }
    return slot;
}

static void
empty_slot(Cache *cache, size_t slot)
{
    size_t mask = cache->slots - 1;
    cache->table[slot]->cache = NULL;
    cache->used--;
    /* Close the gap: whatever probing had pushed past it moves back. */
    for (size_t next = (slot + 1) & mask; cache->table[next] != NULL; next = (next + 1) & mask) {
        size_t home = home_slot(cache, cache->table[next]->oid);
        if (((next - home) & mask) >= ((next - slot) & mask)) {
            cache->table[slot] = cache->table[next];
            slot = next;
        }
    }
    cache->table[slot] = NULL;
}

static void
remove_from_table(Persistent *obj)
{
    Cache *cache = obj->cache;
    if (cache != NULL) {
        size_t slot = find_slot(cache, obj->oid);
        if (cache->table[slot] == obj) {
            empty_slot(cache, slot);
        }
        obj->cache = NULL;
    }
}

/* Give the live object under `oid`, borrowed, or NULL. */
static Persistent *
find_object(Cache *cache, uint64_t oid)
{
    size_t slot = find_slot(cache, oid);
    Persistent *obj = cache->table[slot];
    if (obj != NULL && Py_REFCNT(obj) == 0) {
        /* It is being deallocated, and what it held asks for it once more: it is gone. */
        empty_slot(cache, slot);
        return NULL;
    }
    return obj;
}

static int
resize_table(Cache *cache, size_t slots)
{
    Persistent **old = cache->table;
    size_t old_slots = cache->slots;
    Persistent **table = PyMem_Calloc(slots, sizeof(Persistent *));
    if (table == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    cache->table = table;
    cache->slots = slots;
    for (size_t i = 0; i < old_slots; i++) {
        if (old[i] != NULL) {
            table[find_slot(cache, old[i]->oid)] = old[i];
        }
    }
    PyMem_Free(old);
    return 0;
}

/* Put `obj`, which is in no table, where nothing is under `oid`. */
static int
add_to_table(Cache *cache, uint64_t oid, Persistent *obj)
{
    if (cache->used * 3 >= cache->slots * 2 && resize_table(cache, cache->slots * 2) < 0) {
        return -1;
    }
    obj->oid = oid;
    obj->has_oid = 1;
    cache->table[find_slot(cache, oid)] = obj;
    cache->used++;
    obj->cache = cache;
    return 0;
}

/* -- Cache: the ring ------------------------------------------------------------------------------- */

static int
is_in_ring(const Cache *cache, const Persistent *obj)
{
    return obj->older != NULL || obj->newer != NULL || cache->oldest == obj;
}

/* Take `obj` out of the ring; the caller has the ring's reference then. */
static void
unlink_from_ring(Cache *cache, Persistent *obj)
{
    if (obj->older != NULL) {
        obj->older->newer = obj->newer;
    }
    else {
        cache->oldest = obj->newer;
    }
    if (obj->newer != NULL) {
        obj->newer->older = obj->older;
    }
    else {
        cache->newest = obj->older;
    }
    obj->older = obj->newer = NULL;
    cache->recent--;
}

static void
link_newest(Cache *cache, Persistent *obj)
{
    obj->older = cache->newest;
    obj->newer = NULL;
    if (cache->newest != NULL) {
        cache->newest->newer = obj;
    }
    else {
        cache->oldest = obj;
    }
    cache->newest = obj;
    cache->recent++;
}

static void
note_use_in_ring(Cache *cache, Persistent *obj)
{
    if (cache->newest == obj || obj->cache != cache) {
        return;
    }
    if (is_in_ring(cache, obj)) {
        unlink_from_ring(cache, obj);
    }
    else {
        Py_INCREF(obj);
    }
    link_newest(cache, obj);
}

/* Take `obj` out of the table and the ring that it is in: only what is in a cache's table is in its
   ring. The caller has a reference of its own. */
static void
leave_cache(Persistent *obj)
{
    Cache *cache = obj->cache;
    if (cache == NULL) {
        return;
    }
    remove_from_table(obj);
    if (is_in_ring(cache, obj)) {
        unlink_from_ring(cache, obj);
        Py_DECREF(obj);
    }
}

/* -- Connection ------------------------------------------------------------------------------------ */

static int
connection_claim(Connection *self)
{
    unsigned long ident = PyThread_get_thread_ident();
    if (self->owner != ident || self->transaction_serial < 0) {
        if (self->owner != 0 || self->transaction_serial < 0) {
            PyObject *result = PyObject_CallMethodNoArgs((PyObject *)self, str_refuse);
            if (result == NULL) {
                return -1;
            }
            Py_DECREF(result);
        }
        self->owner = ident;
    }
    return 0;
}

static int
connection_note_access(Connection *self, Persistent *obj)
{
    if (connection_claim(self) < 0) {
        return -1;
    }
    obj->serial = self->transaction_serial;
    note_use_in_ring(self->cache, obj);
    return 0;
}

static int
connection_note_change(Connection *self, Persistent *obj)
{
    if (connection_claim(self) < 0) {
        return -1;
    }
    if (!obj->has_oid) {
        return 0;
    }
    PyObject *oid = oid_to_bytes(obj->oid);
    if (oid == NULL) {
        return -1;
    }
    int result = PyDict_SetItem(self->changed, oid, (PyObject *)obj);
    Py_DECREF(oid);
    return result;
}

static PyObject *
Connection_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    Connection *self = (Connection *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->transaction_serial = 1;
    self->changed = PyDict_New();
    self->cache = (Cache *)PyObject_CallFunction((PyObject *)&CacheType, "i", 0);
    if (self->changed == NULL || self->cache == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
Connection_init(Connection *self, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"cache", NULL};
    PyObject *cache;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O!", names, &CacheType, &cache)) {
        return -1;
    }
    Py_INCREF(cache);
    Py_SETREF(self->cache, (Cache *)cache);
    return 0;
}

static int
Connection_traverse(Connection *self, visitproc visit, void *arg)
{
    Py_VISIT(self->cache);
    Py_VISIT(self->changed);
    return 0;
}

static int
Connection_clear(Connection *self)
{
    /* The cache stays: objects reach it through their connection as long as that lives. */
    PyDict_Clear(self->changed);
    return 0;
}

static void
Connection_dealloc(Connection *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->changed);
    Py_XDECREF(self->cache);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int
check_persistent(PyObject *obj)
{
    if (!PyObject_TypeCheck(obj, &PersistentType)) {
        PyErr_Format(PyExc_TypeError, "a persistent object is needed, got %.80R", obj);
        return -1;
    }
    return 0;
}

static PyObject *
Connection_note_access(Connection *self, PyObject *obj)
{
    if (check_persistent(obj) < 0 || connection_note_access(self, (Persistent *)obj) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Connection_note_change(Connection *self, PyObject *obj)
{
    if (check_persistent(obj) < 0 || connection_note_change(self, (Persistent *)obj) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Connection_claim(Connection *self, PyObject *unused)
{
    if (connection_claim(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Connection_refuse(Connection *self, PyObject *unused)
{
    PyErr_SetNone(PyExc_NotImplementedError);
    return NULL;
}

static PyMethodDef Connection_methods[] = {
    {"note_access", (PyCFunction)Connection_note_access, METH_O,
     "Note that the open transaction has used the object."},
    {"note_change", (PyCFunction)Connection_note_change, METH_O,
     "Note that the object is to be stored by the next commit."},
    {"claim", (PyCFunction)Connection_claim, METH_NOARGS,
     "Make the calling thread the owner of the open transaction.\n\n"
     "Raises:\n    ConnectionStateError: what refuse() finds: closed, or another thread is the owner."},
    {"refuse", (PyCFunction)Connection_refuse, METH_NOARGS,
     "Raise what keeps the calling thread from using this connection. For the subclass."},
    {NULL},
};

static PyMemberDef Connection_members[] = {
    {"transaction_serial", T_LONGLONG, offsetof(Connection, transaction_serial), 0,
     "grows by one with each commit or abort; negative once closed, or in a forked process"},
    {"cache", T_OBJECT_EX, offsetof(Connection, cache), READONLY,
     "the objects that are in memory, by oid"},
    {"changed", T_OBJECT_EX, offsetof(Connection, changed), READONLY,
     "oid to object, for the stored objects with changes to commit"},
    {"owner", T_ULONG, offsetof(Connection, owner), 0,
     "the identifier of the thread whose transaction is open, 0 between transactions"},
    {NULL},
};

static PyTypeObject ConnectionType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.ConnectionBase",
    .tp_doc = "The part of a Connection that every first access of an object in a transaction goes "
              "through.",
    .tp_basicsize = sizeof(Connection),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = Connection_new,
    .tp_init = (initproc)Connection_init,
    .tp_traverse = (traverseproc)Connection_traverse,
    .tp_clear = (inquiry)Connection_clear,
    .tp_dealloc = (destructor)Connection_dealloc,
    .tp_methods = Connection_methods,
    .tp_members = Connection_members,
};

/* -- PersistentBase -------------------------------------------------------------------------------- */

static int
is_protocol_name(PyObject *name)
{
    if (PyUnicode_GET_LENGTH(name) < 3) {
        return 0;
    }
    const void *text = PyUnicode_DATA(name);
    int kind = PyUnicode_KIND(name);
    return PyUnicode_READ(kind, text, 0) == '_' && PyUnicode_READ(kind, text, 1) == 'p'
        && PyUnicode_READ(kind, text, 2) == '_';
}

/* Asked for by isinstance(), repr() and the loading itself: reading them must not load anything. */
static int
loads_nothing(PyObject *name)
{
    return is_protocol_name(name)
        || PyUnicode_CompareWithASCIIString(name, "__class__") == 0
        || PyUnicode_CompareWithASCIIString(name, "__repr__") == 0
        || PyUnicode_CompareWithASCIIString(name, "__setstate__") == 0;
}

static inline int
is_noted(const Persistent *self)
{
    return self->connection == NULL || self->serial == self->connection->transaction_serial;
}

static int
note_use(Persistent *self)
{
    if (self->status == GHOST) {
        PyObject *result = PyObject_CallMethodNoArgs((PyObject *)self, str_load_state);
        if (result == NULL) {
            return -1;
        }
        Py_DECREF(result);
    }
    return is_noted(self) ? 0 : connection_note_access(self->connection, self);
}

static int
note_change(Persistent *self)
{
    if (note_use(self) < 0) {
        return -1;
    }
    if (self->status == SAVED) {
        if (self->connection != NULL && connection_note_change(self->connection, self) < 0) {
            return -1;
        }
        self->status = UNSAVED;
    }
    return 0;
}

static PyObject *
Persistent_getattro(PyObject *op, PyObject *name)
{
    Persistent *self = (Persistent *)op;
    if (self->status != GHOST && is_noted(self)) {
        return PyObject_GenericGetAttr(op, name);
    }
    if (!PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "attribute name must be string, not '%.200s'",
                     Py_TYPE(name)->tp_name);
        return NULL;
    }
    /* Loading and noting may run any code: the object must outlive it. */
    Py_INCREF(op);
    PyObject *result = NULL;
    if (loads_nothing(name) || note_use(self) == 0) {
        result = PyObject_GenericGetAttr(op, name);
    }
    Py_DECREF(op);
    return result;
}

/* The slot of the classes that do not change __setattr__, __delattr__ or _p_note_change. */
static int
Persistent_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    Persistent *self = (Persistent *)op;
    if (self->status != UNSAVED || !is_noted(self)) {
        if (!PyUnicode_Check(name)) {
            PyErr_Format(PyExc_TypeError, "attribute name must be string, not '%.200s'",
                         Py_TYPE(name)->tp_name);
            return -1;
        }
        if (!is_protocol_name(name) && note_change(self) < 0) {
            return -1;
        }
    }
    return PyObject_GenericSetAttr(op, name, value);
}

static int
set_attribute(Persistent *self, PyObject *name, PyObject *value)
{
    if (!PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "attribute name must be string, not '%.200s'",
                     Py_TYPE(name)->tp_name);
        return -1;
    }
    if (!is_protocol_name(name)) {
        PyObject *result = PyObject_CallMethodNoArgs((PyObject *)self, str_note_change);
        if (result == NULL) {
            return -1;
        }
        Py_DECREF(result);
    }
    return PyObject_GenericSetAttr((PyObject *)self, name, value);
}

static PyObject *
Persistent_setattr(Persistent *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_Format(PyExc_TypeError, "__setattr__ takes a name and a value, got %zd arguments", count);
        return NULL;
    }
    if (set_attribute(self, args[0], args[1]) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Persistent_delattr(Persistent *self, PyObject *name)
{
    if (set_attribute(self, name, NULL) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
Persistent_note_change(Persistent *self, PyObject *unused)
{
    if ((self->status != UNSAVED || !is_noted(self)) && note_change(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* CPython lets object.__setattr__ set an attribute only if no base class between has a C slot of its
   own for it; frozen dataclasses and attrs call it in __init__. So PersistentBase has no such slot: it
   has __setattr__ and __delattr__ as methods, and each class that changes neither gets the fast slot
   when its first instance is made. When a class that does change them is met, its bases lose theirs
   for good. */
static int
choose_setattro(PyTypeObject *type)
{
    if (type == &PersistentType) {
        return 0;
    }
    if (_PyType_Lookup(type, str_setattr) == own_setattr
        && _PyType_Lookup(type, str_delattr) == own_delattr
        && _PyType_Lookup(type, str_note_change) == own_note_change) {
        int is_slow = PySet_Contains(slow_types, (PyObject *)type);
        if (is_slow == 0) {
            python_setattro = type->tp_setattro;
            type->tp_setattro = Persistent_setattro;
        }
        return is_slow < 0 ? -1 : 0;
    }
    for (PyTypeObject *base = type->tp_base; base != NULL && base != &PersistentType;
         base = base->tp_base) {
        if (base->tp_setattro == Persistent_setattro) {
            base->tp_setattro = python_setattro;
        }
        if (PySet_Add(slow_types, (PyObject *)base) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
Persistent_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    if (type->tp_setattro != Persistent_setattro && choose_setattro(type) < 0) {
        return NULL;
    }
    /* Through object.__new__, which alone gives an instance its values inline. */
    Persistent *self = (Persistent *)PyBaseObject_Type.tp_new(type, empty_tuple, NULL);
    if (self != NULL) {
        self->status = UNSAVED;
    }
    return (PyObject *)self;
}

static int
Persistent_traverse(Persistent *self, visitproc visit, void *arg)
{
    Py_VISIT(self->connection);
    return 0;
}

static int
Persistent_clear(Persistent *self)
{
    remove_from_table(self);
    Py_CLEAR(self->connection);
    return 0;
}

static void
Persistent_dealloc(Persistent *self)
{
    PyObject_GC_UnTrack(self);
    remove_from_table(self);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs((PyObject *)self);
    }
    Py_CLEAR(self->connection);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int
refuse_delete(PyObject *value, const char *name)
{
    if (value == NULL) {
        PyErr_Format(PyExc_AttributeError, "%s cannot be deleted", name);
        return -1;
    }
    return 0;
}

static PyObject *
Persistent_get_oid(Persistent *self, void *unused)
{
    if (!self->has_oid) {
        Py_RETURN_NONE;
    }
    return oid_to_bytes(self->oid);
}

static int
Persistent_set_oid(Persistent *self, PyObject *value, void *unused)
{
    if (refuse_delete(value, "_p_oid") < 0) {
        return -1;
    }
    uint64_t oid = 0;
    if (value != Py_None && oid_argument(value, &oid) < 0) {
        return -1;
    }
    if (self->cache != NULL && (value == Py_None || oid != self->oid)) {
        /* Under its old oid it must not be found any more. */
        leave_cache(self);
    }
    self->oid = oid;
    self->has_oid = value != Py_None;
    return 0;
}

static PyObject *
Persistent_get_connection(Persistent *self, void *unused)
{
    PyObject *connection = self->connection == NULL ? Py_None : (PyObject *)self->connection;
    return Py_NewRef(connection);
}

static int
Persistent_set_connection(Persistent *self, PyObject *value, void *unused)
{
    if (refuse_delete(value, "_p_connection") < 0) {
        return -1;
    }
    if (value != Py_None && !PyObject_TypeCheck(value, &ConnectionType)) {
        PyErr_Format(PyExc_TypeError, "_p_connection is a Connection or None, got %.80R", value);
        return -1;
    }
    Connection *connection = NULL;
    if (value != Py_None) {
        Py_INCREF(value);
        connection = (Connection *)value;
    }
    Py_XSETREF(self->connection, connection);
    return 0;
}

static PyObject *
Persistent_get_serial(Persistent *self, void *unused)
{
    return PyLong_FromLongLong(self->serial);
}

static int
Persistent_set_serial(Persistent *self, PyObject *value, void *unused)
{
    if (refuse_delete(value, "_p_serial") < 0) {
        return -1;
    }
    long long serial = PyLong_AsLongLong(value);
    if (serial == -1 && PyErr_Occurred()) {
        return -1;
    }
    self->serial = serial;
    return 0;
}

static PyObject *
Persistent_get_status(Persistent *self, void *unused)
{
    return PyLong_FromLong(self->status);
}

static int
Persistent_set_status(Persistent *self, PyObject *value, void *unused)
{
    if (refuse_delete(value, "_p_status") < 0) {
        return -1;
    }
    long status = PyLong_AsLong(value);
    if (status == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (status < GHOST || status > UNSAVED) {
        PyErr_Format(PyExc_ValueError, "_p_status is GHOST, SAVED or UNSAVED, got %ld", status);
        return -1;
    }
    self->status = (int8_t)status;
    return 0;
}

/* Where attrs and dataclasses look whether a class needs the slot. */
static PyObject *
Persistent_get_weakref(Persistent *self, void *unused)
{
    return Py_NewRef(self->weakrefs == NULL ? Py_None : self->weakrefs);
}

static PyGetSetDef Persistent_getset[] = {
    {"__weakref__", (getter)Persistent_get_weakref, NULL, "the weak references to the object", NULL},
    {"_p_oid", (getter)Persistent_get_oid, (setter)Persistent_set_oid,
     "8 bytes, or None while the object is new", NULL},
    {"_p_connection", (getter)Persistent_get_connection, (setter)Persistent_set_connection,
     "the Connection that the object belongs to, or None while it is new", NULL},
    {"_p_serial", (getter)Persistent_get_serial, (setter)Persistent_set_serial,
     "the connection's transaction_serial when the object was last used", NULL},
    {"_p_status", (getter)Persistent_get_status, (setter)Persistent_set_status,
     "GHOST, SAVED or UNSAVED", NULL},
    {NULL},
};

static PyMethodDef Persistent_methods[] = {
    {"__setattr__", (PyCFunction)(void (*)(void))Persistent_setattr, METH_FASTCALL,
     "Set an attribute, and note the change."},
    {"__delattr__", (PyCFunction)Persistent_delattr, METH_O, "Delete an attribute, and note the change."},
    {"_p_note_change", (PyCFunction)Persistent_note_change, METH_NOARGS,
     "Note that the object's state changes, loading it first if it is a ghost.\n\n"
     "To be called when a plain container inside the object is changed in place."},
    {NULL},
};

static PyTypeObject PersistentType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.PersistentBase",
    .tp_doc = "What the Connection keeps about an object, and the interception of attribute access.",
    .tp_basicsize = sizeof(Persistent),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = Persistent_new,
    .tp_getattro = Persistent_getattro,
    .tp_traverse = (traverseproc)Persistent_traverse,
    .tp_clear = (inquiry)Persistent_clear,
    .tp_dealloc = (destructor)Persistent_dealloc,
    .tp_weaklistoffset = offsetof(Persistent, weakrefs),
    .tp_methods = Persistent_methods,
    .tp_getset = Persistent_getset,
};

/* -- DictBase -------------------------------------------------------------------------------------- */

/* What PersistentDict inherits: the operators, on the dict in its attribute `data`. Each loads, then does
   what can fail, then notes the change (which the Connection may refuse), and only then changes. */

static int
Dict_note_change(PyObject *self)
{
    if (((Persistent *)self)->status == UNSAVED) {
        return 0;
    }
    PyObject *result = PyObject_CallMethodNoArgs(self, str_note_change);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Give what __missing__ of the class has for a key that was not found; the KeyError is set. */
static PyObject *
Dict_missing(PyObject *self, PyObject *data, PyObject *key)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    /* The second look raises again if the error came from comparing keys. */
    int has_none = _PyType_Lookup(Py_TYPE(self), str_missing) == NULL;
    int is_there = has_none ? 1 : PySequence_Contains(data, key);
    if (is_there > 0) {
        PyErr_Restore(type, value, traceback);
        return NULL;
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return is_there < 0 ? NULL : PyObject_CallMethodOneArg(self, str_missing, key);
}

static PyObject *
Dict_subscript(PyObject *self, PyObject *key)
{
    PyObject *data = PyObject_GetAttr(self, str_data);
    if (data == NULL) {
        return NULL;
    }
    PyObject *value = PyObject_GetItem(data, key);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_KeyError)) {
        value = Dict_missing(self, data, key);
    }
    Py_DECREF(data);
    return value;
}

static int
Dict_ass_subscript(PyObject *self, PyObject *key, PyObject *value)
{
    PyObject *data = PyObject_GetAttr(self, str_data);
    if (data == NULL) {
        return -1;
    }
    int result = 0;
    if (value == NULL) {
        PyObject *found = PyObject_GetItem(data, key);
        result = found == NULL ? -1 : 0;
        Py_XDECREF(found);
    }
    else if (((Persistent *)self)->status != UNSAVED) {
        result = PyObject_Hash(key) == -1 ? -1 : 0;
    }
    if (result == 0) {
        result = Dict_note_change(self);
    }
    if (result == 0) {
        result = value == NULL ? PyObject_DelItem(data, key) : PyObject_SetItem(data, key, value);
    }
    Py_DECREF(data);
    return result;
}

static Py_ssize_t
Dict_length(PyObject *self)
{
    PyObject *data = PyObject_GetAttr(self, str_data);
    Py_ssize_t length = data == NULL ? -1 : PyObject_Size(data);
    Py_XDECREF(data);
    return length;
}

static int
Dict_contains(PyObject *self, PyObject *key)
{
    PyObject *data = PyObject_GetAttr(self, str_data);
    int is_there = data == NULL ? -1 : PySequence_Contains(data, key);
    Py_XDECREF(data);
    return is_there;
}

static PyMappingMethods Dict_mapping = {
    .mp_length = Dict_length,
    .mp_subscript = Dict_subscript,
    .mp_ass_subscript = Dict_ass_subscript,
};

static PySequenceMethods Dict_sequence = {.sq_contains = Dict_contains};

static PyTypeObject DictBaseType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.DictBase",
    .tp_doc = "The operators of a PersistentDict, on the dict in its attribute `data`.",
    .tp_basicsize = sizeof(Persistent),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_base = &PersistentType,
    .tp_as_mapping = &Dict_mapping,
    .tp_as_sequence = &Dict_sequence,
};

/* -- Cache: the type ------------------------------------------------------------------------------- */

static PyObject *
Cache_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"size", NULL};
    Py_ssize_t size;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "n", names, &size)) {
        return NULL;
    }
    Cache *self = (Cache *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->size = size;
    if (resize_table(self, 64) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
Cache_traverse(Cache *self, visitproc visit, void *arg)
{
    for (Persistent *obj = self->oldest; obj != NULL; obj = obj->newer) {
        Py_VISIT(obj);
    }
    return 0;
}

static int
Cache_clear(Cache *self)
{
    while (self->oldest != NULL) {
        Persistent *obj = self->oldest;
        unlink_from_ring(self, obj);
        Py_DECREF(obj);
    }
    return 0;
}

static void
Cache_dealloc(Cache *self)
{
    PyObject_GC_UnTrack(self);
    /* First the table, so that what dies with the ring does not look into it. */
    for (size_t i = 0; i < self->slots; i++) {
        if (self->table[i] != NULL) {
            self->table[i]->cache = NULL;
        }
    }
    PyMem_Free(self->table);
    self->table = NULL;
    self->slots = 0;
    Cache_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *
Cache_get(Cache *self, PyObject *key)
{
    uint64_t oid;
    if (oid_argument(key, &oid) < 0) {
        return NULL;
    }
    PyObject *found = (PyObject *)find_object(self, oid);
    return Py_NewRef(found == NULL ? Py_None : found);
}

/* Give the object under `oid` or a new ghost; a new reference. */
/* CPython 3.11 and 3.12 keep the values of an instance inline, under names that its class knows, if the
   names are known before many instances are made: each instance without values leaves room for one name
   fewer. So a ghost has no room for values until the class is shaped, by the first state that is set. */

/* How many instances take up the room for names that a class has, but for one more name. */
enum { INSTANCES_TO_SHAPE = 30 };

static int
is_shaped(PyTypeObject *type)
{
#if PY_VERSION_HEX >= 0x030D0000
    return 1;
#else
    return type == last_shaped ? 1 : PySet_Contains(shaped_types, (PyObject *)type);
#endif
}

static PyObject *
make_ghost(PyTypeObject *type)
{
    int is_ready = type->tp_flags & Py_TPFLAGS_IS_ABSTRACT ? 1 : is_shaped(type);
    if (is_ready != 0) {
        return is_ready < 0 ? NULL : Persistent_new(type, empty_tuple, NULL);
    }
    if (type->tp_setattro != Persistent_setattro && choose_setattro(type) < 0) {
        return NULL;
    }
    return type->tp_alloc(type, 0);
}

static PyObject *
get_instance(Cache *self, uint64_t oid, PyObject *klass, PyObject *connection)
{
    Persistent *obj = find_object(self, oid);
    if (obj != NULL) {
        return Py_NewRef((PyObject *)obj);
    }
    obj = (Persistent *)make_ghost((PyTypeObject *)klass);
    if (obj == NULL) {
        return NULL;
    }
    Persistent *meanwhile = find_object(self, oid);
    if (meanwhile != NULL) {
        /* Taking memory ran the garbage collector, and what that ended asked for the same oid. */
        Py_INCREF(meanwhile);
        Py_DECREF(obj);
        return (PyObject *)meanwhile;
    }
    Py_INCREF(connection);
    obj->connection = (Connection *)connection;
    obj->status = GHOST;
    if (add_to_table(self, oid, obj) < 0) {
        Py_DECREF(obj);
        return NULL;
    }
    return (PyObject *)obj;
}

static int
is_persistent_class(PyObject *klass)
{
    return PyType_Check(klass) && PyType_IsSubtype((PyTypeObject *)klass, &PersistentType);
}

static PyObject *
Cache_get_instance(Cache *self, PyObject *const *args, Py_ssize_t count)
{
    uint64_t oid;
    if (count != 3 || !is_persistent_class(args[1])
        || !PyObject_TypeCheck(args[2], &ConnectionType)) {
        PyErr_SetString(PyExc_TypeError,
                        "get_instance takes an oid, a persistent class and a Connection");
        return NULL;
    }
    if (oid_argument(args[0], &oid) < 0) {
        return NULL;
    }
    return get_instance(self, oid, args[1], args[2]);
}

static int
Cache_ass_subscript(Cache *self, PyObject *key, PyObject *value)
{
    uint64_t oid;
    if (oid_argument(key, &oid) < 0) {
        return -1;
    }
    if (value != NULL && check_persistent(value) < 0) {
        return -1;
    }
    Persistent *found = find_object(self, oid);
    if ((PyObject *)found == value) {
        return 0;
    }
    if (found != NULL) {
        Py_INCREF(found);
        leave_cache(found);
    }
    int result = 0;
    if (value != NULL) {
        leave_cache((Persistent *)value);
        result = add_to_table(self, oid, (Persistent *)value);
    }
    /* The last, since it may run any code. */
    Py_XDECREF(found);
    return result;
}

static PyObject *
Cache_iter(Cache *self)
{
    PyObject *objects = PyList_New(0);
    if (objects == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < self->slots; i++) {
        Persistent *obj = self->table[i];
        if (obj != NULL && Py_REFCNT(obj) > 0 && PyList_Append(objects, (PyObject *)obj) < 0) {
            Py_DECREF(objects);
            return NULL;
        }
    }
    PyObject *iterator = PyObject_GetIter(objects);
    Py_DECREF(objects);
    return iterator;
}

static Py_ssize_t
Cache_length(Cache *self)
{
    return (Py_ssize_t)self->used;
}

static PyObject *
Cache_count_recent(Cache *self, PyObject *unused)
{
    return PyLong_FromSsize_t(self->recent);
}

static PyObject *
Cache_note_use(Cache *self, PyObject *obj)
{
    if (check_persistent(obj) < 0) {
        return NULL;
    }
    note_use_in_ring(self, (Persistent *)obj);
    Py_RETURN_NONE;
}

static PyObject *
Cache_shrink(Cache *self, PyObject *argument)
{
    long long serial = PyLong_AsLongLong(argument);
    if (serial == -1 && PyErr_Occurred()) {
        return NULL;
    }
    Py_ssize_t count = 0;
    for (Py_ssize_t excess = self->recent - self->size; excess > 0; excess--) {
        Persistent *obj = self->oldest;
        if (obj == NULL || obj->serial == serial) {
            break;
        }
        /* An unsaved object is held by the Connection; its commit puts it back here. */
        unlink_from_ring(self, obj);
        if (obj->status == SAVED) {
            PyObject *result = PyObject_CallMethodNoArgs((PyObject *)obj, str_set_ghost);
            if (result == NULL) {
                Py_DECREF(obj);
                return NULL;
            }
            Py_DECREF(result);
            count++;
        }
        Py_DECREF(obj);
    }
    return PyLong_FromSsize_t(count);
}

static PyMethodDef Cache_methods[] = {
    {"get", (PyCFunction)Cache_get, METH_O, "Give the object in memory under the oid, or None."},
    {"get_instance", (PyCFunction)(void (*)(void))Cache_get_instance, METH_FASTCALL,
     "get_instance(oid, klass, connection)\n\n"
     "Give the object in memory under the oid, or a new ghost of the class."},
    {"count_recent", (PyCFunction)Cache_count_recent, METH_NOARGS,
     "Count the objects that are held strongly."},
    {"note_use", (PyCFunction)Cache_note_use, METH_O,
     "Make the object the last that shrink() would take."},
    {"shrink", (PyCFunction)Cache_shrink, METH_O,
     "shrink(transaction_serial)\n\n"
     "Make ghosts of the longest unused objects until `size` are left.\n\n"
     "Objects that are unsaved, or were used in that transaction, stay. Give how many became ghosts;\n"
     "the time taken is in proportion to it."},
    {NULL},
};

static PyMemberDef Cache_members[] = {
    {"size", T_PYSSIZET, offsetof(Cache, size), 0, "how many objects shrink() leaves"},
    {NULL},
};

static PyMappingMethods Cache_mapping = {
    .mp_length = (lenfunc)Cache_length,
    .mp_ass_subscript = (objobjargproc)Cache_ass_subscript,
};

static PyTypeObject CacheType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.Cache",
    .tp_doc = "The objects of one Connection that are in memory, each once, by oid.",
    .tp_basicsize = sizeof(Cache),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = Cache_new,
    .tp_traverse = (traverseproc)Cache_traverse,
    .tp_clear = (inquiry)Cache_clear,
    .tp_dealloc = (destructor)Cache_dealloc,
    .tp_iter = (getiterfunc)Cache_iter,
    .tp_as_mapping = &Cache_mapping,
    .tp_methods = Cache_methods,
    .tp_members = Cache_members,
};

/* -- ReferenceWriter ------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Connection *connection; /* owned */
    PyObject *new_oid;      /* owned */
    PyObject *adopted;      /* owned list */
    uint64_t *oids;
    Py_ssize_t count;
    Py_ssize_t room;
    uint64_t own_oid;
    int has_own_oid;
} ReferenceWriter;

static int
add_reference(ReferenceWriter *self, uint64_t oid)
{
    if (self->has_own_oid && oid == self->own_oid) {
        return 0;
    }
    if (self->count == self->room) {
        Py_ssize_t room = self->room * 2 + 16;
        uint64_t *oids = PyMem_Realloc(self->oids, room * sizeof(uint64_t));
        if (oids == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->oids = oids;
        self->room = room;
    }
    self->oids[self->count++] = oid;
    return 0;
}

/* Give a new object an oid and the connection, and note it; returns the oid. */
static PyObject *
adopt(ReferenceWriter *self, PyObject *obj)
{
    PyObject *oid = PyObject_CallNoArgs(self->new_oid);
    if (oid == NULL) {
        return NULL;
    }
    /* The list first: what is in it is undone when the commit fails. */
    if (Persistent_set_oid((Persistent *)obj, oid, NULL) < 0
        || PyList_Append(self->adopted, obj) < 0
        || Persistent_set_connection((Persistent *)obj, (PyObject *)self->connection, NULL) < 0
        || Cache_ass_subscript(self->connection->cache, oid, obj) < 0) {
        Py_CLEAR(oid);
    }
    return oid;
}

static PyObject *
ReferenceWriter_call(ReferenceWriter *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (PyVectorcall_NARGS(flags) != 1 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "a ReferenceWriter is called with one object");
        return NULL;
    }
    if (!PyObject_TypeCheck(args[0], &PersistentType)) {
        Py_RETURN_NONE;
    }
    Persistent *obj = (Persistent *)args[0];
    PyObject *oid;
    if (obj->connection == NULL) {
        oid = adopt(self, (PyObject *)obj);
    }
    else if (obj->connection == self->connection && obj->has_oid) {
        oid = oid_to_bytes(obj->oid);
    }
    else {
        oid = Persistent_get_oid(obj, NULL);
        if (oid != NULL) {
            PyErr_Format(ForeignObjectError,
                         "tried to store a reference to %s %R, which belongs to another Connection;"
                         " get it from this one by its oid, or copy its contents into a new object",
                         Py_TYPE(obj)->tp_name, oid);
            Py_CLEAR(oid);
        }
    }
    if (oid == NULL) {
        return NULL;
    }
    PyObject *result = NULL;
    if (add_reference(self, oid_from_bytes(oid)) == 0) {
        result = PyTuple_Pack(2, oid, (PyObject *)Py_TYPE(obj));
    }
    Py_DECREF(oid);
    return result;
}

static PyObject *
ReferenceWriter_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"connection", "new_oid", "adopted", NULL};
    PyObject *connection, *new_oid, *adopted;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O!OO!", names, &ConnectionType, &connection,
                                     &new_oid, &PyList_Type, &adopted)) {
        return NULL;
    }
    ReferenceWriter *self = (ReferenceWriter *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->vectorcall = (vectorcallfunc)ReferenceWriter_call;
    self->connection = (Connection *)Py_NewRef(connection);
    self->new_oid = Py_NewRef(new_oid);
    self->adopted = Py_NewRef(adopted);
    return (PyObject *)self;
}

static int
ReferenceWriter_traverse(ReferenceWriter *self, visitproc visit, void *arg)
{
    Py_VISIT(self->connection);
    Py_VISIT(self->new_oid);
    Py_VISIT(self->adopted);
    return 0;
}

static int
ReferenceWriter_clear(ReferenceWriter *self)
{
    Py_CLEAR(self->connection);
    Py_CLEAR(self->new_oid);
    Py_CLEAR(self->adopted);
    return 0;
}

static void
ReferenceWriter_dealloc(ReferenceWriter *self)
{
    PyObject_GC_UnTrack(self);
    ReferenceWriter_clear(self);
    PyMem_Free(self->oids);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *
ReferenceWriter_begin(ReferenceWriter *self, PyObject *oid)
{
    self->has_own_oid = oid != Py_None;
    if (self->has_own_oid && oid_argument(oid, &self->own_oid) < 0) {
        return NULL;
    }
    self->count = 0;
    Py_RETURN_NONE;
}

static int
compare_oids(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static PyObject *
ReferenceWriter_get_refs(ReferenceWriter *self, PyObject *unused)
{
    if (self->count > 1) {
        qsort(self->oids, (size_t)self->count, sizeof(uint64_t), compare_oids);
    }
    Py_ssize_t distinct = 0;
    for (Py_ssize_t i = 0; i < self->count; i++) {
        if (i == 0 || self->oids[i] != self->oids[distinct - 1]) {
            self->oids[distinct++] = self->oids[i];
        }
    }
    self->count = distinct;
    PyObject *refs = PyBytes_FromStringAndSize(NULL, distinct * 8);
    if (refs == NULL) {
        return NULL;
    }
    unsigned char *text = (unsigned char *)PyBytes_AS_STRING(refs);
    for (Py_ssize_t i = 0; i < distinct; i++) {
        uint64_t oid = self->oids[i];
        for (int j = 7; j >= 0; j--, oid >>= 8) {
            text[i * 8 + j] = (unsigned char)oid;
        }
    }
    return refs;
}

static PyMethodDef ReferenceWriter_methods[] = {
    {"begin", (PyCFunction)ReferenceWriter_begin, METH_O,
     "Start to collect the references of the object with this oid."},
    {"get_refs", (PyCFunction)ReferenceWriter_get_refs, METH_NOARGS,
     "Give the oids that were referred to, sorted and joined."},
    {NULL},
};

static PyTypeObject ReferenceWriterType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.ReferenceWriter",
    .tp_doc = "The persistent_id of a pickler: a persistent object inside a state becomes (oid, class).",
    .tp_basicsize = sizeof(ReferenceWriter),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_new = ReferenceWriter_new,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(ReferenceWriter, vectorcall),
    .tp_traverse = (traverseproc)ReferenceWriter_traverse,
    .tp_clear = (inquiry)ReferenceWriter_clear,
    .tp_dealloc = (destructor)ReferenceWriter_dealloc,
    .tp_methods = ReferenceWriter_methods,
};

/* -- ReferenceReader ------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Connection *connection; /* owned */
} ReferenceReader;

static PyObject *
ReferenceReader_call(ReferenceReader *self, PyObject *const *args, size_t flags, PyObject *names)
{
    if (PyVectorcall_NARGS(flags) != 1 || names != NULL) {
        PyErr_SetString(PyExc_TypeError, "a ReferenceReader is called with one reference");
        return NULL;
    }
    PyObject *reference = args[0];
    if (!PyTuple_Check(reference) || PyTuple_GET_SIZE(reference) != 2) {
        PyErr_Format(UnpicklingError, "a reference is (oid, class), got %.80R", reference);
        return NULL;
    }
    PyObject *oid = PyTuple_GET_ITEM(reference, 0), *klass = PyTuple_GET_ITEM(reference, 1);
    if (!is_oid(oid)) {
        PyErr_Format(UnpicklingError, "a reference has an oid of 8 bytes, got %.80R", oid);
        return NULL;
    }
    if (!is_persistent_class(klass)) {
        PyErr_Format(UnpicklingError, "a reference has a persistent class, got %.80R", klass);
        return NULL;
    }
    return get_instance(self->connection->cache, oid_from_bytes(oid), klass,
                        (PyObject *)self->connection);
}

static PyObject *
ReferenceReader_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"connection", NULL};
    PyObject *connection;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O!", names, &ConnectionType, &connection)) {
        return NULL;
    }
    ReferenceReader *self = (ReferenceReader *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->vectorcall = (vectorcallfunc)ReferenceReader_call;
        self->connection = (Connection *)Py_NewRef(connection);
    }
    return (PyObject *)self;
}

static int
ReferenceReader_traverse(ReferenceReader *self, visitproc visit, void *arg)
{
    Py_VISIT(self->connection);
    return 0;
}

static void
ReferenceReader_dealloc(ReferenceReader *self)
{
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->connection);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyTypeObject ReferenceReaderType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.ReferenceReader",
    .tp_doc = "The persistent_load of an unpickler: (oid, class) becomes the object of a Connection.",
    .tp_basicsize = sizeof(ReferenceReader),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_new = ReferenceReader_new,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(ReferenceReader, vectorcall),
    .tp_traverse = (traverseproc)ReferenceReader_traverse,
    .tp_dealloc = (destructor)ReferenceReader_dealloc,
};

/* -- RecordFile ------------------------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    PyObject *data; /* owned bytes */
    Py_ssize_t position;
    Py_ssize_t end;
} RecordFile;

static PyObject *
RecordFile_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    PyObject *data;
    Py_ssize_t start, end;
    if (!PyArg_ParseTuple(args, "Snn:RecordFile", &data, &start, &end)) {
        return NULL;
    }
    if (start < 0 || start > end || end > PyBytes_GET_SIZE(data)) {
        PyErr_SetString(PyExc_ValueError, "start and end lie outside the data");
        return NULL;
    }
    RecordFile *self = (RecordFile *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->data = Py_NewRef(data);
        self->position = start;
        self->end = end;
    }
    return (PyObject *)self;
}

static void
RecordFile_dealloc(RecordFile *self)
{
    Py_XDECREF(self->data);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *
RecordFile_next(RecordFile *self, Py_ssize_t length)
{
    const char *text = PyBytes_AS_STRING(self->data) + self->position;
    self->position += length;
    return PyBytes_FromStringAndSize(text, length);
}

static PyObject *
RecordFile_peek(RecordFile *self, PyObject *unused)
{
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self->data) + self->position,
                                     self->end - self->position);
}

static PyObject *
RecordFile_read(RecordFile *self, PyObject *argument)
{
    Py_ssize_t length = PyLong_AsSsize_t(argument);
    if (length == -1 && PyErr_Occurred()) {
        return NULL;
    }
    Py_ssize_t left = self->end - self->position;
    return RecordFile_next(self, length < 0 || length > left ? left : length);
}

static PyObject *
RecordFile_readline(RecordFile *self, PyObject *unused)
{
    const char *text = PyBytes_AS_STRING(self->data) + self->position;
    Py_ssize_t left = self->end - self->position;
    const char *newline = memchr(text, '\n', (size_t)left);
    return RecordFile_next(self, newline == NULL ? left : newline - text + 1);
}

static PyMethodDef RecordFile_methods[] = {
    {"peek", (PyCFunction)RecordFile_peek, METH_O, "Give all that is left, and stay."},
    {"read", (PyCFunction)RecordFile_read, METH_O,
     "Give the next bytes, at most so many; all that is left for a negative number."},
    {"readline", (PyCFunction)RecordFile_readline, METH_NOARGS,
     "Give the bytes up to and with the next newline."},
    {NULL},
};

static PyTypeObject RecordFileType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.RecordFile",
    .tp_doc = "RecordFile(data, start, end)\n\n"
              "What an unpickler reads a state from: the bytes from `start` to `end` of `data`.\n\n"
              "`peek` shows all that is left, so that the unpickler asks once and not for each opcode.",
    .tp_basicsize = sizeof(RecordFile),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = RecordFile_new,
    .tp_dealloc = (destructor)RecordFile_dealloc,
    .tp_methods = RecordFile_methods,
};

/* -- states ---------------------------------------------------------------------------------------- */

static int
set_in_dict(PyObject *obj, PyObject *name, PyObject *value)
{
    PyObject *dict = PyObject_GenericGetDict(obj, NULL);
    if (dict == NULL) {
        return -1;
    }
    int result = PyDict_SetItem(dict, name, value);
    Py_DECREF(dict);
    return result;
}

static int
set_stored_attribute(PyObject *obj, PyObject *name, PyObject *value)
{
    if (!PyUnicode_CheckExact(name)) {
        return set_in_dict(obj, name, value);
    }
    PyObject *found = _PyType_Lookup(Py_TYPE(obj), name);
    /* A state that names a slot which is not stored must not reach it. */
    if (found == NULL || Py_TYPE(found)->tp_descr_set == NULL
        || (Py_IS_TYPE(found, &PyMemberDescr_Type) && !is_protocol_name(name))) {
        /* Also keeps the values inline, where taking the dict would make one. */
        return PyObject_GenericSetAttr(obj, name, value);
    }
    return set_in_dict(obj, name, value);
}

/* Have a class know the names of a state, and make its instances as small as these allow. */
static int
shape(PyTypeObject *type, PyObject *state)
{
    if (PySet_Add(shaped_types, (PyObject *)type) < 0) {
        return -1;
    }
    last_shaped = type;
    if (type->tp_flags & Py_TPFLAGS_IS_ABSTRACT || type->tp_finalize != NULL) {
        return 0; /* a sample would end as if it were an object of the program */
    }
    PyObject *sample = PyBaseObject_Type.tp_new(type, empty_tuple, NULL);
    PyObject *name, *value;
    Py_ssize_t position = 0;
    while (sample != NULL && PyDict_Next(state, &position, &name, &value)) {
        PyObject *found = PyUnicode_CheckExact(name) ? _PyType_Lookup(type, name) : NULL;
        if (!PyUnicode_CheckExact(name) || (found != NULL && Py_TYPE(found)->tp_descr_set != NULL)) {
            continue; /* not where the values of instances are */
        }
        Py_INCREF(name);
        PyUnicode_InternInPlace(&name);
        if (PyObject_GenericSetAttr(sample, name, Py_None) < 0) {
            PyErr_Clear(); /* the class has slots only: set_state will say so */
        }
        Py_DECREF(name);
    }
    for (int i = 0; sample != NULL && i < INSTANCES_TO_SHAPE; i++) {
        Py_DECREF(sample);
        sample = PyBaseObject_Type.tp_new(type, empty_tuple, NULL);
    }
    Py_XDECREF(sample);
    return sample == NULL ? -1 : 0;
}

/* Set the attributes in `state`, a dict. */
static int
set_attributes(PyObject *obj, PyObject *state)
{
    int is_known = is_shaped(Py_TYPE(obj));
    if (is_known < 0 || (!is_known && shape(Py_TYPE(obj), state) < 0)) {
        return -1;
    }
    PyObject *name, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(state, &position, &name, &value)) {
        Py_INCREF(name);
        Py_INCREF(value);
        if (PyUnicode_CheckExact(name)) {
            /* The names that the class knows are; others would be looked for in all its bases. */
            PyUnicode_InternInPlace(&name);
        }
        int result = set_stored_attribute(obj, name, value);
        Py_DECREF(name);
        Py_DECREF(value);
        if (result < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
set_state(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "set_state takes a persistent object and a dict");
        return NULL;
    }
    if (check_persistent(args[0]) < 0) {
        return NULL;
    }
    if (!PyDict_Check(args[1])) {
        PyErr_Format(PyExc_TypeError, "the state of a %.200s is a dict, got %.80R",
                     Py_TYPE(args[0])->tp_name, args[1]);
        return NULL;
    }
    if (set_attributes(args[0], args[1]) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
get_slot(PyObject *obj, PyObject *slot, PyObject *state)
{
    PyObject *value = Py_TYPE(slot)->tp_descr_get(slot, obj, (PyObject *)Py_TYPE(obj));
    if (value == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear(); /* the slot is not set */
        return 0;
    }
    int result = PyDict_SetItem(state, PyDescr_NAME(slot), value);
    Py_DECREF(value);
    return result;
}

/* Give a copy of the object's __dict__, empty if it has none. */
static PyObject *
copy_dict(PyObject *obj)
{
    if (Py_TYPE(obj)->tp_dictoffset == 0) {
        return PyDict_New();
    }
    PyObject *dict = PyObject_GenericGetDict(obj, NULL);
    if (dict == NULL) {
        return NULL;
    }
    PyObject *copy = PyDict_Copy(dict);
    Py_DECREF(dict);
    return copy;
}

static PyObject *
get_state(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyTuple_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "get_state takes a persistent object and its slots");
        return NULL;
    }
    if (check_persistent(args[0]) < 0 || note_use((Persistent *)args[0]) < 0) {
        return NULL;
    }
    PyObject *state = copy_dict(args[0]);
    if (state == NULL) {
        return NULL;
    }
    int failed = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args[1]) && !failed; i++) {
        PyObject *slot = PyTuple_GET_ITEM(args[1], i);
        if (!Py_IS_TYPE(slot, &PyMemberDescr_Type)) {
            PyErr_Format(PyExc_TypeError, "a slot's descriptor is needed, got %.80R", slot);
            failed = 1;
        }
        else {
            failed = get_slot(args[0], slot, state) < 0;
        }
    }
    if (failed) {
        Py_CLEAR(state);
    }
    return state;
}

/* Take the value out of a slot, and keep it in `held`. */
static int
empty_member(PyObject *obj, PyObject *slot, PyObject *held)
{
    if (!Py_IS_TYPE(slot, &PyMemberDescr_Type)) {
        PyErr_Format(PyExc_TypeError, "a slot's descriptor is needed, got %.80R", slot);
        return -1;
    }
    PyObject *value = Py_TYPE(slot)->tp_descr_get(slot, obj, (PyObject *)Py_TYPE(obj));
    if (value == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear(); /* the slot was not set */
        return 0;
    }
    int result = PyList_Append(held, value);
    Py_DECREF(value);
    return result < 0 ? -1 : Py_TYPE(slot)->tp_descr_set(slot, obj, NULL);
}

/* Take everything out of the object's __dict__, and keep it in `held`. */
static int
empty_dict(PyObject *obj, PyObject *held)
{
    PyObject *dict = PyObject_GenericGetDict(obj, NULL);
    if (dict == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear(); /* the class has slots only */
        return 0;
    }
    PyObject *copy = PyDict_Copy(dict);
    int result = copy == NULL ? -1 : PyList_Append(held, copy);
    if (result == 0) {
        PyDict_Clear(dict);
    }
    Py_XDECREF(copy);
    Py_DECREF(dict);
    return result;
}

static PyObject *
clear_state(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyTuple_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "clear_state takes a persistent object and its slots");
        return NULL;
    }
    if (check_persistent(args[0]) < 0) {
        return NULL;
    }
    PyObject *held = PyList_New(0);
    if (held == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args[1]); i++) {
        if (empty_member(args[0], PyTuple_GET_ITEM(args[1], i), held) < 0) {
            Py_DECREF(held);
            return NULL;
        }
    }
    if (empty_dict(args[0], held) < 0) {
        Py_DECREF(held);
        return NULL;
    }
    return held;
}

/* -- CRC-32, as of zlib ----------------------------------------------------------------------------- */

static uint32_t crc_table[8][256];

static void
make_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? crc >> 1 ^ UINT32_C(0xEDB88320) : crc >> 1;
        }
        crc_table[0][i] = crc;
    }
    for (int i = 0; i < 256; i++) {
        for (int j = 1; j < 8; j++) {
            uint32_t crc = crc_table[j - 1][i];
            crc_table[j][i] = crc >> 8 ^ crc_table[0][crc & 255];
        }
    }
}

static uint32_t
crc32(uint32_t crc, const unsigned char *text, Py_ssize_t length)
{
    crc = ~crc;
    for (; length >= 8; length -= 8, text += 8) {
        crc ^= (uint32_t)text[0] | (uint32_t)text[1] << 8 | (uint32_t)text[2] << 16
             | (uint32_t)text[3] << 24;
        crc = crc_table[7][crc & 255] ^ crc_table[6][crc >> 8 & 255]
            ^ crc_table[5][crc >> 16 & 255] ^ crc_table[4][crc >> 24]
            ^ crc_table[3][text[4]] ^ crc_table[2][text[5]]
            ^ crc_table[1][text[6]] ^ crc_table[0][text[7]];
    }
    for (; length > 0; length--, text++) {
        crc = crc >> 8 ^ crc_table[0][(crc ^ *text) & 255];
    }
    return ~crc;
}

static PyObject *
proof_of(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "proof_of takes oid, body and refs");
        return NULL;
    }
    uint32_t crc = 0;
    for (int i = 0; i < 3; i++) {
        Py_buffer part;
        if (PyObject_GetBuffer(args[i], &part, PyBUF_SIMPLE) < 0) {
            return NULL;
        }
        crc = crc32(crc, part.buf, part.len);
        PyBuffer_Release(&part);
    }
    return PyLong_FromUnsignedLong(crc);
}

static void
write_u32(unsigned char *text, uint32_t value)
{
    for (int i = 3; i >= 0; i--, value >>= 8) {
        text[i] = (unsigned char)value;
    }
}

/* How many bytes a pickle has before those that its one frame holds, or 0 if it is not framed so. */
static Py_ssize_t
frame_start(const unsigned char *text, Py_ssize_t length)
{
    if (length < 11 || memcmp(text, "\x80\x04\x95", 3) != 0) {
        return 0;
    }
    uint64_t framed = 0;
    for (int i = 10; i >= 3; i--) {
        framed = framed << 8 | text[i];
    }
    return framed == (uint64_t)length - 11 ? 11 : 0;
}

/* Make the record of `oid`. Of a state that is framed the first 2 bytes are kept, and what is framed. */
static PyObject *
build_record(const unsigned char oid[8], PyObject *klass, const unsigned char *state,
             Py_ssize_t framed, Py_ssize_t state_length, const char *refs, Py_ssize_t refs_length)
{
    Py_ssize_t class_length = PyBytes_GET_SIZE(klass), kept = framed ? 2 : 0;
    uint64_t data_length = (uint64_t)class_length + kept + (state_length - framed) + 4;
    if (data_length > UINT32_MAX) {
        PyErr_Format(PyExc_OverflowError, "a record's data has at most 4294967295 bytes, got %llu",
                     (unsigned long long)data_length);
        return NULL;
    }
    PyObject *record = PyBytes_FromStringAndSize(NULL, 12 + (Py_ssize_t)data_length + refs_length);
    if (record == NULL) {
        return NULL;
    }
    unsigned char *text = (unsigned char *)PyBytes_AS_STRING(record), *end = text + 12;
    memcpy(text, oid, 8);
    write_u32(text + 8, (uint32_t)data_length);
    memcpy(end, PyBytes_AS_STRING(klass), class_length);
    end += class_length;
    memcpy(end, state, kept);
    memcpy(end + kept, state + framed, state_length - framed);
    end += kept + (state_length - framed);
    if (refs_length > 0) {
        memcpy(end + 4, refs, refs_length);
    }
    uint32_t crc = crc32(0, text, 8);
    crc = crc32(crc, text + 12, end - text - 12);
    write_u32(end, crc32(crc, end + 4, refs_length));
    return record;
}

static PyObject *
make_record(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !is_oid(args[0]) || !PyBytes_Check(args[1]) || !PyBytes_Check(args[2])
        || !PyBytes_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "make_record takes oid, class, state and refs, all bytes");
        return NULL;
    }
    const unsigned char *state = (const unsigned char *)PyBytes_AS_STRING(args[2]);
    Py_ssize_t state_length = PyBytes_GET_SIZE(args[2]);
    return build_record((const unsigned char *)PyBytes_AS_STRING(args[0]), args[1], state,
                        frame_start(state, state_length), state_length, PyBytes_AS_STRING(args[3]),
                        PyBytes_GET_SIZE(args[3]));
}

static uint32_t
read_u32(const unsigned char *text)
{
    return (uint32_t)text[0] << 24 | (uint32_t)text[1] << 16 | (uint32_t)text[2] << 8 | text[3];
}

/* Give the data of a record, if it is that of `oid`, promises a proof and has it right, and how long
   data and refs are; NULL for every other record. */
static const unsigned char *
find_proven(const unsigned char oid[8], PyObject *bytes, Py_ssize_t *data_length,
            Py_ssize_t *refs_length)
{
    const unsigned char *record = (const unsigned char *)PyBytes_AS_STRING(bytes);
    Py_ssize_t length = PyBytes_GET_SIZE(bytes);
    /* 12 bytes of oid and length, 3 that promise a proof, 4 of proof. */
    if (length < 19 || memcmp(record, oid, 8) != 0) {
        return NULL;
    }
    uint64_t claimed = read_u32(record + 8), left = (uint64_t)length - 12;
    if (claimed < 7 || claimed > left || (left - claimed) % 8
        || memcmp(record + 12, "\x80\x04" "c", 3) != 0) {
        return NULL;
    }
    *data_length = (Py_ssize_t)claimed;
    *refs_length = (Py_ssize_t)(left - claimed);
    const unsigned char *data = record + 12, *refs = data + *data_length;
    uint32_t crc = crc32(0, record, 8);
    crc = crc32(crc, data, *data_length - 4);
    crc = crc32(crc, refs, *refs_length);
    return crc == read_u32(refs - 4) ? data : NULL;
}

static PyObject *
split_proven(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "split_proven takes oid and record");
        return NULL;
    }
    if (!is_oid(args[0]) || !PyBytes_Check(args[1])) {
        Py_RETURN_NONE;
    }
    Py_ssize_t data_length, refs_length;
    const unsigned char *data = find_proven((const unsigned char *)PyBytes_AS_STRING(args[0]), args[1],
                                            &data_length, &refs_length);
    if (data == NULL) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(y#y#)", data, data_length, data + data_length, refs_length);
}

#include "_plain_reader.c"
#include "_plain_writer.c"
#include "_btree_speedups.c" /* they call much of the above: one unit, which exports nothing */

/* -- the module ------------------------------------------------------------------------------------ */

static PyMethodDef module_functions[] = {
    {"set_state", (PyCFunction)(void (*)(void))set_state, METH_FASTCALL,
     "set_state(obj, state)\n\nSet attributes as they were stored: slots through their descriptors,\n"
     "the rest in __dict__. No __setattr__ is called, and nothing is noted as changed."},
    {"get_state", (PyCFunction)(void (*)(void))get_state, METH_FASTCALL,
     "get_state(obj, slots)\n\nGive a new dict of all attributes: what is in __dict__, and the given"
     " slots\nthat are set. It counts as a use of the object."},
    {"make_record", (PyCFunction)(void (*)(void))make_record, METH_FASTCALL,
     "make_record(oid, klass, state, refs)\n\nGive the record of what was pickled, with its proof;"
     " the frame of the state is left out."},
    {"make_plain_record", (PyCFunction)(void (*)(void))make_plain_record, METH_FASTCALL,
     "make_plain_record(obj, klass, slots)\n\nGive the record of an object, with its proof, or None if"
     " its attributes are not all\nnumbers and short texts. It counts as a use of the object."},
    {"clear_state", (PyCFunction)(void (*)(void))clear_state, METH_FASTCALL,
     "clear_state(obj, slots)\n\nTake away all attributes: what is in __dict__, and the given slots.\n"
     "Give what they held: its end may use the object, which has to be a ghost by then."},
    {"proof_of", (PyCFunction)(void (*)(void))proof_of, METH_FASTCALL,
     "proof_of(oid, body, refs)\n\nGive the CRC-32 of a record's oid, body and references."},
    {"split_proven", (PyCFunction)(void (*)(void))split_proven, METH_FASTCALL,
     "split_proven(oid, record)\n\nGive data and refs of a record, if it is that of `oid`, promises a"
     " proof\nand has it right. None is for every other record."},
    {NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "durus._speedups",
    .m_doc = "The hot parts in C: the twin of durus._pure.",
    .m_size = -1,
    .m_methods = module_functions,
};

static int
import_name(const char *module_name, const char *name, PyObject **result)
{
    PyObject *module = PyImport_ImportModule(module_name);
    if (module == NULL) {
        return -1;
    }
    *result = PyObject_GetAttrString(module, name);
    Py_DECREF(module);
    return *result == NULL ? -1 : 0;
}

static int
add_types(PyObject *module)
{
    struct { const char *name; PyTypeObject *type; } types[] = {
        {"PersistentBase", &PersistentType},
        {"DictBase", &DictBaseType},
        {"ConnectionBase", &ConnectionType},
        {"Cache", &CacheType},
        {"ReferenceWriter", &ReferenceWriterType},
        {"ReferenceReader", &ReferenceReaderType},
        {"RecordFile", &RecordFileType},
        {"PlainReader", &PlainReaderType},
    };
    for (size_t i = 0; i < Py_ARRAY_LENGTH(types); i++) {
        if (PyType_Ready(types[i].type) < 0
            || PyModule_AddObjectRef(module, types[i].name, (PyObject *)types[i].type) < 0) {
            return -1;
        }
    }
    PyObject *slots = Py_BuildValue("(sssss)", "__weakref__", "_p_connection", "_p_oid", "_p_serial",
                                    "_p_status");
    if (slots == NULL || PyDict_SetItemString(PersistentType.tp_dict, "__slots__", slots) < 0) {
        return -1;
    }
    Py_DECREF(slots);
    own_setattr = PyDict_GetItemString(PersistentType.tp_dict, "__setattr__");
    own_delattr = PyDict_GetItemString(PersistentType.tp_dict, "__delattr__");
    own_note_change = PyDict_GetItemString(PersistentType.tp_dict, "_p_note_change");
    return own_setattr && own_delattr && own_note_change ? 0 : -1;
}

static int
make_constants(void)
{
    empty_tuple = PyTuple_New(0);
    slow_types = PySet_New(NULL);
    shaped_types = PySet_New(NULL);
    str_setattr = PyUnicode_InternFromString("__setattr__");
    str_delattr = PyUnicode_InternFromString("__delattr__");
    str_note_change = PyUnicode_InternFromString("_p_note_change");
    str_load_state = PyUnicode_InternFromString("_p_load_state");
    str_set_ghost = PyUnicode_InternFromString("_p_set_status_ghost");
    str_data = PyUnicode_InternFromString("data");
    str_missing = PyUnicode_InternFromString("__missing__");
    str_refuse = PyUnicode_InternFromString("refuse");
    str_setstate = PyUnicode_InternFromString("__setstate__");
    str_count = PyUnicode_InternFromString("_count");
    make_crc_table();
    return PyErr_Occurred() ? -1 : 0;
}

PyMODINIT_FUNC
PyInit__speedups(void)
{
    PyObject *module = PyModule_Create(&module_definition);
    if (module == NULL) {
        return NULL;
    }
    if (make_constants() < 0
        || import_name("durus.error", "InvalidOidError", &InvalidOidError) < 0
        || import_name("durus.error", "ForeignObjectError", &ForeignObjectError) < 0
        || import_name("pickle", "UnpicklingError", &UnpicklingError) < 0
        || add_types(module) < 0
        || add_btree(module) < 0
        || add_plain_states(module) < 0
        || PyModule_AddIntConstant(module, "GHOST", GHOST) < 0
        || PyModule_AddIntConstant(module, "SAVED", SAVED) < 0
        || PyModule_AddIntConstant(module, "UNSAVED", UNSAVED) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
