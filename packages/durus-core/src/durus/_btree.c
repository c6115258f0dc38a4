/* Searching B-trees and walking through them in C: a part of the module _speedups, the twin of
   _btree_search.py. What a node is, and what holds for every change, is said in
   _btree_nodes.py.

   A comparison of keys may run any Python code, which may change the node that is searched. So what is
   looked at is owned meanwhile, and every index is checked against the length of that moment. Keys
   that are all int or all str are compared without running any. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "_btree.h"

static PyObject *str_items, *str_nodes, *str_minimum_degree, *str_note_change;

/* -- one node -------------------------------------------------------------------------------------- */

/* Give the items of a node as a list, its own unless the record was made by something else. */
static PyObject *
get_items(PyObject *node)
{
    PyObject *items = PyObject_GetAttr(node, str_items);
    if (items != NULL && !PyList_Check(items)) {
        PyObject *list = PySequence_List(items);
        Py_DECREF(items);
        return list;
    }
    return items;
}

/* Give the children of a node in `nodes`: NULL for a leaf. */
static int
get_nodes(PyObject *node, PyObject **nodes)
{
    *nodes = PyObject_GetAttr(node, str_nodes);
    if (*nodes == NULL) {
        return -1;
    }
    int is_inner = *nodes == Py_None ? 0 : PyObject_IsTrue(*nodes);
    if (is_inner <= 0) {
        Py_CLEAR(*nodes);
    }
    return is_inner < 0 ? -1 : 0;
}

static PyObject *
get_child(PyObject *nodes, Py_ssize_t position)
{
    if (PyList_CheckExact(nodes) && position < PyList_GET_SIZE(nodes)) {
        return Py_NewRef(PyList_GET_ITEM(nodes, position));
    }
    return PySequence_GetItem(nodes, position);
}

/* Give the key of an item, or NULL without an error if the item is not the usual tuple. */
static inline PyObject *
key_if_plain(PyObject *item)
{
    return PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) > 0 ? PyTuple_GET_ITEM(item, 0) : NULL;
}

static PyObject *
key_of(PyObject *item)
{
    PyObject *key = key_if_plain(item);
    return key != NULL ? Py_NewRef(key) : PySequence_GetItem(item, 0);
}

/* Tell whether an item comes before `(key,)`, as tuples compare. */
static int
is_before(PyObject *item, PyObject *key)
{
    PyObject *found = key_if_plain(item);
    if (found != NULL) {
        int is_equal = PyObject_RichCompareBool(found, key, Py_EQ);
        return is_equal ? (is_equal < 0 ? -1 : 0) : PyObject_RichCompareBool(found, key, Py_LT);
    }
    PyObject *probe = PyTuple_Pack(1, key);
    if (probe == NULL) {
        return -1;
    }
    int result = PyObject_RichCompareBool(item, probe, Py_LT);
    Py_DECREF(probe);
    return result;
}

/* What is looked for; int and str that compare without running Python code are told apart once. */
typedef struct {
    PyObject *key;
    enum { ANY, INT, STR } kind;
    long long number;
} Wanted;

static Wanted
make_wanted(PyObject *key)
{
    Wanted wanted = {key, ANY, 0};
    if (PyUnicode_CheckExact(key)) {
        wanted.kind = STR;
    }
    else if (PyLong_CheckExact(key)) {
        int overflow;
        wanted.number = PyLong_AsLongLongAndOverflow(key, &overflow);
        wanted.kind = overflow ? ANY : INT;
    }
    return wanted;
}

/* Compare the key of an item with a wanted int or str: negative, 0 or positive in `order`.
   Give 0 if that cannot be told so simply. */
static inline int
compare_simply(PyObject *item, const Wanted *wanted, int *order)
{
    PyObject *key = key_if_plain(item);
    if (key == NULL) {
        return 0;
    }
    if (wanted->kind == INT && PyLong_CheckExact(key)) {
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(key, &overflow);
        *order = overflow ? overflow : (number > wanted->number) - (number < wanted->number);
        return 1;
    }
    if (wanted->kind == STR && PyUnicode_CheckExact(key)) {
        *order = PyUnicode_Compare(key, wanted->key);
        return 1;
    }
    return 0;
}

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

/* How many parts of a node's items are looked at together, and how many looks tell them apart. */
enum { PARTS = 8, LOOKS = 3 };

/* Ask for the items between the parts from `low` to `high`, and their keys. Most of the time of a search
   is waiting for memory: an item and its key lie anywhere. Asked for together, they come together. */
static void
fetch_between_parts(PyObject *items, Py_ssize_t low, Py_ssize_t high)
{
    PyObject *between[PARTS - 1];
    for (int i = 1; i < PARTS; i++) {
        between[i - 1] = PyList_GET_ITEM(items, low + (high - low) * i / PARTS);
        PREFETCH(between[i - 1]);
    }
    for (int i = 0; i < PARTS - 1; i++) {
        PyObject *key = key_if_plain(between[i]);
        if (key != NULL) {
            PREFETCH(key);
        }
    }
}

/* Give the position of the first item whose key is not less than the wanted one, or -1 and an error. */
static Py_ssize_t
find_position(PyObject *items, const Wanted *wanted)
{
    Py_ssize_t low = 0, high = PyList_GET_SIZE(items);
    for (int looks = 0; low < high; looks++) {
        if (wanted->kind != ANY && looks % LOOKS == 0 && high <= PyList_GET_SIZE(items)) {
            fetch_between_parts(items, low, high);
        }
        Py_ssize_t middle = low + (high - low) / 2;
        if (middle >= PyList_GET_SIZE(items)) {
            PyErr_SetString(PyExc_IndexError, "the items of a node became fewer while it was searched");
            return -1;
        }
        PyObject *item = PyList_GET_ITEM(items, middle);
        int order;
        if (!compare_simply(item, wanted, &order)) {
            Py_INCREF(item);
            int is_less = is_before(item, wanted->key);
            Py_DECREF(item);
            if (is_less < 0) {
                return -1;
            }
            order = is_less ? -1 : 1;
        }
        if (order < 0) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low;
}

/* Give the item at a position if its key is equal to the wanted one: 1, 0, or -1 and an error. */
static int
take_equal(PyObject *items, Py_ssize_t position, const Wanted *wanted, PyObject **found)
{
    *found = NULL;
    if (position >= PyList_GET_SIZE(items)) {
        return 0;
    }
    PyObject *item = Py_NewRef(PyList_GET_ITEM(items, position));
    int order, is_equal = -1;
    if (compare_simply(item, wanted, &order)) {
        is_equal = order == 0;
    }
    else {
        PyObject *key = key_of(item);
        PyObject *answer = key == NULL ? NULL : PyObject_RichCompare(key, wanted->key, Py_EQ);
        Py_XDECREF(key);
        if (answer != NULL) {
            is_equal = PyObject_IsTrue(answer);
            Py_DECREF(answer);
        }
    }
    if (is_equal > 0) {
        *found = item;
    }
    else {
        Py_DECREF(item);
    }
    return is_equal;
}

/* -- from the root down ---------------------------------------------------------------------------- */

/* Where a search ended: at the item, or in the leaf where it belongs. Owned references. */
typedef struct {
    PyObject *node;
    PyObject *items;
    Py_ssize_t position;
    PyObject *item; /* or NULL */
} Place;

static void
leave(Place *place)
{
    Py_CLEAR(place->node);
    Py_CLEAR(place->items);
    Py_CLEAR(place->item);
}

static int
search(PyObject *root, PyObject *key, Place *place)
{
    const Wanted wanted = make_wanted(key);
    *place = (Place){.node = Py_NewRef(root)};
    for (;;) {
        PyObject *nodes;
        place->items = get_items(place->node);
        if (place->items == NULL) {
            break;
        }
        place->position = find_position(place->items, &wanted);
        if (place->position < 0) {
            break;
        }
        int is_found = take_equal(place->items, place->position, &wanted, &place->item);
        if (is_found > 0) {
            return 0;
        }
        if (is_found < 0 || get_nodes(place->node, &nodes) < 0) {
            break;
        }
        if (nodes == NULL) {
            return 0;
        }
        PyObject *child = get_child(nodes, place->position);
        Py_DECREF(nodes);
        leave(place);
        place->node = child;
        if (child == NULL) {
            break;
        }
    }
    leave(place);
    return -1;
}

static int
check_count(const char *name, Py_ssize_t count, Py_ssize_t least, Py_ssize_t most)
{
    if (count < least || count > most) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd to %zd arguments, got %zd", name, least, most,
                     count);
        return -1;
    }
    return 0;
}

static PyObject *
find_item(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Place place;
    if (check_count("find_item", count, 2, 2) < 0 || search(args[0], args[1], &place) < 0) {
        return NULL;
    }
    PyObject *item = Py_NewRef(place.item != NULL ? place.item : Py_None);
    leave(&place);
    return item;
}

static PyObject *
find_holder(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Place place;
    if (check_count("find_holder", count, 2, 2) < 0 || search(args[0], args[1], &place) < 0) {
        return NULL;
    }
    PyObject *result = place.item != NULL ? Py_BuildValue("(On)", place.node, place.position)
                                          : Py_NewRef(Py_None);
    leave(&place);
    return result;
}

static PyObject *
position_of(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (check_count("position_of", count, 2, 2) < 0) {
        return NULL;
    }
    PyObject *items = PyList_Check(args[0]) ? Py_NewRef(args[0]) : PySequence_List(args[0]);
    if (items == NULL) {
        return NULL;
    }
    const Wanted wanted = make_wanted(args[1]);
    Py_ssize_t position = find_position(items, &wanted);
    Py_DECREF(items);
    return position < 0 ? NULL : PyLong_FromSsize_t(position);
}

/* Tell whether a leaf has room for one more item: 1, 0, or -1 and an error. */
static int
has_room(const Place *place)
{
    PyObject *degree = PyObject_GetAttr(place->node, str_minimum_degree);
    if (degree == NULL) {
        return -1;
    }
    Py_ssize_t number = PyNumber_AsSsize_t(degree, PyExc_OverflowError);
    Py_DECREF(degree);
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    return PyList_GET_SIZE(place->items) < 2 * number - 1;
}

static PyObject *
put_where_room(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Place place;
    if (check_count("put_where_room", count, 2, 2) < 0) {
        return NULL;
    }
    PyObject *key = key_of(args[1]), *result = NULL;
    if (key == NULL) {
        return NULL;
    }
    int outcome = search(args[0], key, &place);
    Py_DECREF(key);
    if (outcome < 0) {
        return NULL;
    }
    int is_room = place.item != NULL ? 1 : has_room(&place);
    if (is_room == 0) {
        result = Py_NewRef(Py_False);
    }
    else if (is_room > 0) {
        PyObject *noted = PyObject_CallMethodNoArgs(place.node, str_note_change);
        if (noted != NULL) {
            Py_DECREF(noted);
            if (place.item == NULL) {
                outcome = PyList_Insert(place.items, place.position, args[1]);
                result = outcome < 0 ? NULL : Py_NewRef(Py_True);
            }
            else {
                outcome = PyList_SetItem(place.items, place.position, Py_NewRef(args[1]));
                result = outcome < 0 ? NULL : Py_NewRef(Py_None);
            }
        }
    }
    leave(&place);
    return result;
}

/* -- walks ----------------------------------------------------------------------------------------- */

typedef struct {
    PyObject *node, *nodes; /* owned */
    Py_ssize_t position;
} Step;

/* No path is longer than one through nodes of two children each, as many as there are oids. */
enum { MOST_STEPS = 64 };

typedef struct {
    PyObject_HEAD
    PyObject *root; /* NULL when the walk is over */
    PyObject *key;  /* where to go on, or NULL for the first or last item */
    char is_closed, is_backward, is_begun, is_running;
    int depth;
    Step path[MOST_STEPS];
} Runs;

static void
shorten(Runs *self, int depth)
{
    while (self->depth > depth) {
        Step *step = &self->path[--self->depth];
        Py_CLEAR(step->node);
        Py_CLEAR(step->nodes);
    }
}

/* Add a step to the path; takes the reference to `nodes`. */
static int
lengthen(Runs *self, PyObject *node, PyObject *nodes, Py_ssize_t position)
{
    if (self->depth == MOST_STEPS) {
        Py_DECREF(nodes);
        PyErr_SetString(PyExc_RecursionError, "a BTree has a node that is below itself");
        return -1;
    }
    self->path[self->depth++] = (Step){Py_NewRef(node), nodes, position};
    return 0;
}

/* Where in a node the walk goes on that comes from above; 1 if at an item of this inner node. */
static int
enter_at(Runs *self, PyObject *items, PyObject *nodes, PyObject *key, Py_ssize_t *position)
{
    *position = self->is_backward ? PyList_GET_SIZE(items) : 0;
    if (key == NULL) {
        return 0;
    }
    const Wanted wanted = make_wanted(key);
    *position = find_position(items, &wanted);
    if (*position < 0) {
        return -1;
    }
    PyObject *found;
    int is_found = 0;
    /* Backward the item itself is looked at only if it is to be given. */
    if (!self->is_backward || self->is_closed) {
        is_found = take_equal(items, *position, &wanted, &found);
        Py_XDECREF(found);
    }
    if (is_found <= 0) {
        return is_found;
    }
    if (self->is_backward || !self->is_closed) {
        *position += 1;
    }
    return self->is_closed && nodes != NULL;
}

/* Extend the path from a node to a leaf; give the items of that, from the key on. */
static PyObject *
go_down(Runs *self, PyObject *start, PyObject *key)
{
    PyObject *node = Py_NewRef(start), *items = NULL, *nodes = NULL, *run = NULL;
    for (;;) {
        Py_ssize_t position;
        if ((items = get_items(node)) == NULL || get_nodes(node, &nodes) < 0) {
            break;
        }
        int is_here = enter_at(self, items, nodes, key, &position);
        if (is_here < 0) {
            break;
        }
        if (nodes == NULL) {
            run = self->is_backward ? PyList_GetSlice(items, 0, position)
                                    : PyList_GetSlice(items, position, PY_SSIZE_T_MAX);
            break;
        }
        int outcome = lengthen(self, node, Py_NewRef(nodes), position);
        if (outcome < 0) {
            break;
        }
        if (is_here) {
            run = PyList_New(0);
            break;
        }
        PyObject *child = get_child(nodes, position);
        Py_DECREF(node);
        Py_CLEAR(items);
        Py_CLEAR(nodes);
        node = child;
        if (node == NULL) {
            return NULL;
        }
    }
    Py_DECREF(node);
    Py_XDECREF(items);
    Py_XDECREF(nodes);
    return run;
}

/* Tell whether the way that the walk has come is still there: 1, 0, or -1 and an error. */
static int
is_still_there(const Runs *self)
{
    for (int i = 0; i < self->depth; i++) {
        PyObject *nodes = PyObject_GetAttr(self->path[i].node, str_nodes);
        if (nodes == NULL) {
            return -1;
        }
        Py_DECREF(nodes);
        if (nodes != self->path[i].nodes) {
            return 0;
        }
    }
    return 1;
}

/* Give the item of an inner node that comes next, and go on behind it. NULL without an error: none. */
static PyObject *
take_next_inner(Runs *self)
{
    while (self->depth > 0) {
        Step *step = &self->path[self->depth - 1];
        if (self->is_backward && step->position == 0) {
            shorten(self, self->depth - 1);
            continue;
        }
        PyObject *items = get_items(step->node);
        if (items == NULL) {
            return NULL;
        }
        if (!self->is_backward && step->position >= PyList_GET_SIZE(items)) {
            Py_DECREF(items);
            shorten(self, self->depth - 1);
            continue;
        }
        if (self->is_backward) {
            step->position -= 1;
        }
        PyObject *item = PyList_GetItem(items, step->position);
        Py_XINCREF(item);
        Py_DECREF(items);
        if (!self->is_backward) {
            step->position += 1;
        }
        return item;
    }
    return NULL;
}

/* Give the next run when the last one was empty, or its way is still there. */
static PyObject *
go_on(Runs *self)
{
    PyObject *item = take_next_inner(self);
    if (item == NULL) {
        return NULL;
    }
    Step *step = &self->path[self->depth - 1];
    PyObject *child = get_child(step->nodes, step->position), *run = NULL;
    if (child != NULL) {
        run = go_down(self, child, NULL);
        Py_DECREF(child);
    }
    if (run != NULL) {
        int outcome = self->is_backward ? PyList_Append(run, item) : PyList_Insert(run, 0, item);
        if (outcome < 0) {
            Py_CLEAR(run);
        }
    }
    Py_DECREF(item);
    return run;
}

static PyObject *
begin(Runs *self)
{
    self->is_begun = 1;
    shorten(self, 0);
    return go_down(self, self->root, self->key);
}

static PyObject *
find_next_run(Runs *self)
{
    PyObject *run;
    int is_there = self->is_begun ? is_still_there(self) : 0;
    if (is_there < 0) {
        return NULL;
    }
    run = is_there ? go_on(self) : begin(self);
    while (run != NULL && PyList_GET_SIZE(run) == 0) {
        Py_DECREF(run);
        run = go_on(self);
    }
    return run;
}

static PyObject *
Runs_next(Runs *self)
{
    if (self->is_running) {
        PyErr_SetString(PyExc_ValueError, "a walk through a BTree goes on already");
        return NULL;
    }
    if (self->root == NULL) {
        return NULL;
    }
    self->is_running = 1;
    PyObject *run = find_next_run(self);
    if (run != NULL) {
        Py_ssize_t last = self->is_backward ? 0 : PyList_GET_SIZE(run) - 1;
        PyObject *key = key_of(PyList_GET_ITEM(run, last));
        if (key == NULL) {
            Py_CLEAR(run);
        }
        else {
            Py_XSETREF(self->key, key);
            self->is_closed = 0;
        }
    }
    if (run == NULL) {
        shorten(self, 0);
        Py_CLEAR(self->root);
        Py_CLEAR(self->key);
    }
    self->is_running = 0;
    return run;
}

static int
Runs_traverse(Runs *self, visitproc visit, void *arg)
{
    Py_VISIT(self->root);
    Py_VISIT(self->key);
    for (int i = 0; i < self->depth; i++) {
        Py_VISIT(self->path[i].node);
        Py_VISIT(self->path[i].nodes);
    }
    return 0;
}

static int
Runs_clear(Runs *self)
{
    shorten(self, 0);
    Py_CLEAR(self->root);
    Py_CLEAR(self->key);
    return 0;
}

static void
Runs_dealloc(Runs *self)
{
    PyObject_GC_UnTrack(self);
    Runs_clear(self);
    PyObject_GC_Del(self);
}

static PyTypeObject RunsType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.Runs",
    .tp_doc = "A walk through a BTree, in runs.",
    .tp_basicsize = sizeof(Runs),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_traverse = (traverseproc)Runs_traverse,
    .tp_clear = (inquiry)Runs_clear,
    .tp_dealloc = (destructor)Runs_dealloc,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)Runs_next,
};

static PyObject *
make_runs(const char *name, PyObject *const *args, Py_ssize_t count, int is_backward)
{
    if (check_count(name, count, 1, 3) < 0) {
        return NULL;
    }
    int is_closed = count == 3 ? PyObject_IsTrue(args[2]) : 1;
    if (is_closed < 0) {
        return NULL;
    }
    Runs *self = PyObject_GC_New(Runs, &RunsType);
    if (self == NULL) {
        return NULL;
    }
    self->root = Py_NewRef(args[0]);
    self->key = count > 1 ? Py_NewRef(args[1]) : NULL;
    self->is_closed = (char)is_closed;
    self->is_backward = (char)is_backward;
    self->is_begun = self->is_running = 0;
    self->depth = 0;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *
runs_forward(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return make_runs("runs_forward", args, count, 0);
}

static PyObject *
runs_backward(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return make_runs("runs_backward", args, count, 1);
}

/* -- keys or values out of runs -------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *runs; /* an iterator, or NULL when it is over */
    PyObject *run;  /* a list, or NULL */
    Py_ssize_t next;
    Py_ssize_t part; /* 0 for keys, 1 for values */
} Parts;

static PyObject *
Parts_next(Parts *self)
{
    while (self->runs != NULL) {
        if (self->run != NULL && self->next < PyList_GET_SIZE(self->run)) {
            PyObject *item = PyList_GET_ITEM(self->run, self->next++);
            if (PyTuple_CheckExact(item) && self->part < PyTuple_GET_SIZE(item)) {
                return Py_NewRef(PyTuple_GET_ITEM(item, self->part));
            }
            Py_INCREF(item);
            PyObject *part = PySequence_GetItem(item, self->part);
            Py_DECREF(item);
            return part;
        }
        Py_CLEAR(self->run);
        self->next = 0;
        PyObject *runs = Py_NewRef(self->runs);
        PyObject *run = PyIter_Next(runs);
        Py_DECREF(runs);
        if (run == NULL || !PyList_Check(run)) {
            if (run != NULL) {
                PyErr_SetString(PyExc_TypeError, "a run of items is a list");
                Py_DECREF(run);
            }
            Py_CLEAR(self->runs);
            return NULL;
        }
        Py_XSETREF(self->run, run);
    }
    return NULL;
}

static int
Parts_traverse(Parts *self, visitproc visit, void *arg)
{
    Py_VISIT(self->runs);
    Py_VISIT(self->run);
    return 0;
}

static int
Parts_clear(Parts *self)
{
    Py_CLEAR(self->runs);
    Py_CLEAR(self->run);
    return 0;
}

static void
Parts_dealloc(Parts *self)
{
    PyObject_GC_UnTrack(self);
    Parts_clear(self);
    PyObject_GC_Del(self);
}

static PyTypeObject PartsType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.Parts",
    .tp_doc = "The keys, or the values, of the items in runs.",
    .tp_basicsize = sizeof(Parts),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_traverse = (traverseproc)Parts_traverse,
    .tp_clear = (inquiry)Parts_clear,
    .tp_dealloc = (destructor)Parts_dealloc,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)Parts_next,
};

static PyObject *
make_parts(PyObject *runs, Py_ssize_t part)
{
    PyObject *iterator = PyObject_GetIter(runs);
    if (iterator == NULL) {
        return NULL;
    }
    Parts *self = PyObject_GC_New(Parts, &PartsType);
    if (self == NULL) {
        Py_DECREF(iterator);
        return NULL;
    }
    self->runs = iterator;
    self->run = NULL;
    self->next = 0;
    self->part = part;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *
keys_of(PyObject *module, PyObject *runs)
{
    return make_parts(runs, 0);
}

static PyObject *
values_of(PyObject *module, PyObject *runs)
{
    return make_parts(runs, 1);
}

/* -- the part of the module ------------------------------------------------------------------------ */

static PyMethodDef btree_functions[] = {
    {"find_item", (PyCFunction)(void (*)(void))find_item, METH_FASTCALL,
     "find_item(root, key)\n\nGive the item with `key`, or None."},
    {"find_holder", (PyCFunction)(void (*)(void))find_holder, METH_FASTCALL,
     "find_holder(root, key)\n\nGive the node that holds `key`, and where in its items; or None."},
    {"position_of", (PyCFunction)(void (*)(void))position_of, METH_FASTCALL,
     "position_of(items, key)\n\nGive the position of the first item whose key is not less."},
    {"put_where_room", (PyCFunction)(void (*)(void))put_where_room, METH_FASTCALL,
     "put_where_room(root, item)\n\nAdd an item to its leaf: True. Or put it in the place of the one\n"
     "with the same key: None. Or do nothing, if the leaf is full: False."},
    {"runs_forward", (PyCFunction)(void (*)(void))runs_forward, METH_FASTCALL,
     "runs_forward(root[, key, closed])\n\nGive the items from `key` on: an iterator of runs."},
    {"runs_backward", (PyCFunction)(void (*)(void))runs_backward, METH_FASTCALL,
     "runs_backward(root[, key, closed])\n\nGive the items up to `key`: an iterator of runs."},
    {"keys_of", (PyCFunction)keys_of, METH_O, "Give the keys of the items in runs, an iterator."},
    {"values_of", (PyCFunction)values_of, METH_O, "Give the values of the items in runs."},
    {NULL},
};

int
add_btree(PyObject *module)
{
    str_items = PyUnicode_InternFromString("items");
    str_nodes = PyUnicode_InternFromString("nodes");
    str_minimum_degree = PyUnicode_InternFromString("minimum_degree");
    str_note_change = PyUnicode_InternFromString("_p_note_change");
    if (PyErr_Occurred() || PyType_Ready(&RunsType) < 0 || PyType_Ready(&PartsType) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, btree_functions);
}
