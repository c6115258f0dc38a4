/* Searching, filling and walking the nodes of a B-tree: the twin of _btree_pure.py, with the same names and
   behaviour. `_speedups.c` includes this file, so that both are one unit and export nothing.

   find_item, find_holder, position_of    a search, down from the root
   put                                    adds or replaces an item, and splits what is full
   ascending, descending                  iterators, the type Walk
   TreeBase                               the operators of a BTree

   Two keys that are both exactly `int` or exactly `str` are compared without a call. Every other pair
   is compared as Python does, and that may run any code: it may change the list that is searched, or
   end objects. So whatever is used after a comparison is owned, and sizes are looked at anew. What
   stored data says is not trusted to have any shape: items may be no pairs, and nodes no nodes. */

/* -- what a class of nodes is like ----------------------------------------------------------------- */

static PyObject *str_items, *str_nodes, *str_minimum_degree, *zero;
static PyObject *str_keys, *str_root, *str_census, *str_add, *str_remove, *str_note_added;

typedef struct {
    unsigned int version;    /* of the type, as CPython counts; 0 is that of none */
    Py_ssize_t items, nodes; /* where the slots are in an instance; 0: ask for the attribute */
    Py_ssize_t keys;         /* where the slot of the key table is, or 0 */
    Py_ssize_t degree;       /* minimum_degree, if no instance can have another; 0: ask for it */
    int notes_in_c;          /* the class does not change _p_note_change */
} Layout;

/* Give where the attribute's slot is, or 0 if it is not a plain slot. */
static Py_ssize_t
find_slot_offset(PyTypeObject *type, PyObject *name)
{
    PyObject *found = _PyType_Lookup(type, name);
    if (found == NULL || !Py_IS_TYPE(found, &PyMemberDescr_Type)
        || !PyType_IsSubtype(type, PyDescr_TYPE(found))) {
        return 0;
    }
    PyMemberDef *member = ((PyMemberDescrObject *)found)->d_member;
    return member->type == T_OBJECT_EX ? member->offset : 0;
}

/* Give what all instances have as minimum_degree, or 0 if they are to be asked. */
static Py_ssize_t
find_degree(PyTypeObject *type)
{
    PyObject *found = _PyType_Lookup(type, str_minimum_degree);
    if (found == NULL || !PyLong_CheckExact(found) || type->tp_dictoffset != 0) {
        return 0;
    }
    int overflow;
    long long degree = PyLong_AsLongLongAndOverflow(found, &overflow);
    return overflow == 0 && degree > 0 && degree < PY_SSIZE_T_MAX / 2 ? (Py_ssize_t)degree : 0;
}

static Layout last_layout;

static const Layout *
find_layout(PyTypeObject *type)
{
    Layout layout = {0};
    if (type->tp_getattro == Persistent_getattro) {
        layout.items = find_slot_offset(type, str_items);
        layout.nodes = find_slot_offset(type, str_nodes);
        layout.keys = find_slot_offset(type, str_keys);
        layout.degree = find_degree(type);
        layout.notes_in_c = _PyType_Lookup(type, str_note_change) == own_note_change;
    }
    layout.version = type->tp_version_tag; /* the look-ups have given it one */
    last_layout = layout;
    return &last_layout;
}

static inline const Layout *
layout_of(PyTypeObject *type)
{
    return type->tp_version_tag != 0 && type->tp_version_tag == last_layout.version
        ? &last_layout : find_layout(type);
}

/* Give an attribute of a node, loading a ghost and noting the use. */
static inline PyObject *
read_slot(PyObject *node, Py_ssize_t offset, PyObject *name)
{
    if (offset != 0) {
        Persistent *persistent = (Persistent *)node;
        if ((persistent->status == GHOST || !is_noted(persistent)) && note_use(persistent) < 0) {
            return NULL;
        }
        PyObject *value = *(PyObject **)((char *)node + offset);
        if (value != NULL) {
            return Py_NewRef(value);
        }
    }
    return PyObject_GetAttr(node, name);
}

static inline PyObject *
items_of(PyObject *node)
{
    return read_slot(node, layout_of(Py_TYPE(node))->items, str_items);
}

static inline PyObject *
nodes_of(PyObject *node)
{
    return read_slot(node, layout_of(Py_TYPE(node))->nodes, str_nodes);
}

/* Give the `nodes` that a node has now, owned, or NULL if it would have to be asked: no code runs. */
static inline PyObject *
peek_nodes(PyObject *node)
{
    Py_ssize_t offset = layout_of(Py_TYPE(node))->nodes;
    return offset == 0 ? NULL : Py_XNewRef(*(PyObject **)((char *)node + offset));
}

static int
note_node_change(PyObject *node)
{
    if (layout_of(Py_TYPE(node))->notes_in_c) {
        return note_change((Persistent *)node);
    }
    PyObject *result = PyObject_CallMethodNoArgs(node, str_note_change);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static inline Py_ssize_t
length_of(PyObject *sequence)
{
    return PyList_CheckExact(sequence) ? PyList_GET_SIZE(sequence) : PyObject_Size(sequence);
}

/* Give sequence[position], owned. */
static inline PyObject *
element_of(PyObject *sequence, Py_ssize_t position)
{
    if (PyList_CheckExact(sequence) && position < PyList_GET_SIZE(sequence)) {
        return Py_NewRef(PyList_GET_ITEM(sequence, position));
    }
    PyObject *index = PyLong_FromSsize_t(position);
    PyObject *element = index == NULL ? NULL : PyObject_GetItem(sequence, index);
    Py_XDECREF(index);
    return element;
}

static inline PyObject *
key_of(PyObject *item)
{
    if (PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) > 0) {
        return Py_NewRef(PyTuple_GET_ITEM(item, 0));
    }
    return PyObject_GetItem(item, zero);
}

/* Tell whether a node is a leaf by what its `nodes` are. */
static inline int
has_children(PyObject *nodes)
{
    if (nodes == Py_None) {
        return 0;
    }
    return PyList_CheckExact(nodes) ? PyList_GET_SIZE(nodes) != 0 : PyObject_IsTrue(nodes);
}

/* -- searching one list of items ------------------------------------------------------------------- */

typedef struct {
    PyObject *key; /* borrowed */
    PyTypeObject *fast_type; /* PyLong_Type or PyUnicode_Type, or NULL */
    long long number;
    PyObject *tuple; /* (key,), owned; made when it is needed */
} Probe;

/* Give an int that fits; 0 if it does not. */
static inline int
as_number(PyObject *key, long long *number)
{
#if PY_VERSION_HEX >= 0x030C0000
    if (PyUnstable_Long_IsCompact((PyLongObject *)key)) {
        *number = PyUnstable_Long_CompactValue((PyLongObject *)key);
        return 1;
    }
#else
    Py_ssize_t digits = Py_SIZE(key);
    if (digits >= -1 && digits <= 1) {
        *number = digits * (long long)((PyLongObject *)key)->ob_digit[0];
        return 1;
    }
#endif
    int overflow;
    *number = PyLong_AsLongLongAndOverflow(key, &overflow);
    return overflow == 0;
}

static void
start_probe(Probe *probe, PyObject *key)
{
    probe->key = key;
    probe->tuple = NULL;
    probe->fast_type = NULL;
    probe->number = 0;
    if (PyUnicode_CheckExact(key) || (PyLong_CheckExact(key) && as_number(key, &probe->number))) {
        probe->fast_type = Py_TYPE(key);
    }
}

static void
end_probe(Probe *probe)
{
    Py_XDECREF(probe->tuple);
}

static inline int
compare_text(PyObject *left, PyObject *right)
{
    if (PyUnicode_IS_COMPACT_ASCII(left) && PyUnicode_IS_COMPACT_ASCII(right)) {
        Py_ssize_t left_length = PyUnicode_GET_LENGTH(left);
        Py_ssize_t right_length = PyUnicode_GET_LENGTH(right);
        size_t common = (size_t)Py_MIN(left_length, right_length);
        int order = memcmp((PyASCIIObject *)left + 1, (PyASCIIObject *)right + 1, common);
        return order != 0 ? order : (left_length > right_length) - (left_length < right_length);
    }
    return PyUnicode_Compare(left, right);
}

/* Compare without running any code; give 0 where that cannot be.

   `*order` becomes negative, 0 or positive, as the item's key is less, equal or greater. */
static inline int
compare_fast(PyObject *item, const Probe *probe, int *order)
{
    if (probe->fast_type == NULL || !PyTuple_CheckExact(item) || PyTuple_GET_SIZE(item) < 1) {
        return 0;
    }
    PyObject *key = PyTuple_GET_ITEM(item, 0);
    if (!Py_IS_TYPE(key, probe->fast_type)) {
        return 0;
    }
    if (probe->fast_type == &PyUnicode_Type) {
        *order = key == probe->key ? 0 : compare_text(key, probe->key);
        return 1;
    }
    long long number;
    if (!as_number(key, &number)) {
        return 0;
    }
    *order = (number > probe->number) - (number < probe->number);
    return 1;
}

/* Tell whether item < (key,), as Python compares; no value is looked at. */
static int
is_less(PyObject *item, Probe *probe)
{
    if (PyTuple_CheckExact(item)) {
        if (PyTuple_GET_SIZE(item) == 0) {
            return 1;
        }
        PyObject *key = PyTuple_GET_ITEM(item, 0); /* the caller owns the item */
        int equal = PyObject_RichCompareBool(key, probe->key, Py_EQ);
        if (equal != 0) {
            return equal < 0 ? -1 : 0;
        }
        PyObject *result = PyObject_RichCompare(key, probe->key, Py_LT);
        if (result == NULL) {
            return -1;
        }
        int less = PyObject_IsTrue(result);
        Py_DECREF(result);
        return less;
    }
    if (probe->tuple == NULL && (probe->tuple = PyTuple_Pack(1, probe->key)) == NULL) {
        return -1;
    }
    return PyObject_RichCompareBool(item, probe->tuple, Py_LT);
}

/* A function that only prefetches has no effect that a compiler sees: as a call it would be dropped. */
#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#define PREFETCHING static inline __attribute__((always_inline))
#else
#define PREFETCH(address) ((void)(address))
#define PREFETCHING static inline
#endif

/* Ask the processor for what a pair holds: whoever walks over pairs looks at both parts. */
PREFETCHING void
prefetch_parts(PyObject *item)
{
    if (PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) == 2) {
        PREFETCH(PyTuple_GET_ITEM(item, 0));
        PREFETCH(PyTuple_GET_ITEM(item, 1));
    }
}

/* How many pairs a search asks for at once, at most: those that its next three steps may look at. */
enum { AHEAD = 7 };

/* Ask the processor for the keys that the next three steps of a search may look at.

   In a large tree most of a search is waiting for memory: at each step for a pair, then for its key.
   Asked for together, seven take hardly longer than one. */
PREFETCHING void
prefetch_keys(PyObject **items, Py_ssize_t low, Py_ssize_t high)
{
    PyObject *ahead[AHEAD];
    int count = 0;
    if (high - low <= AHEAD) {
        while (low < high) {
            ahead[count++] = items[low++];
        }
    }
    else {
        Py_ssize_t middle = low + (high - low) / 2;
        Py_ssize_t left = low + (middle - low) / 2;
        Py_ssize_t right = middle + 1 + (high - middle - 1) / 2;
        ahead[0] = items[middle];
        ahead[1] = items[left];
        ahead[2] = items[right];
        ahead[3] = items[low + (left - low) / 2];
        ahead[4] = items[left + 1 + (middle - left - 1) / 2];
        ahead[5] = items[middle + 1 + (right - middle - 1) / 2];
        ahead[6] = items[right + 1 + (high - right - 1) / 2];
        count = AHEAD;
    }
    for (int i = 0; i < count; i++) {
        PREFETCH((char *)ahead[i] + offsetof(PyTupleObject, ob_item));
    }
    for (int i = 0; i < count; i++) {
        if (PyTuple_CheckExact(ahead[i]) && PyTuple_GET_SIZE(ahead[i]) > 0) {
            PREFETCH((char *)PyTuple_GET_ITEM(ahead[i], 0) + sizeof(PyObject));
        }
    }
}

/* Ask the processor for the children that a search may lead to: what it looks at first in a node is
   how the object begins, and where its slots are. */
PREFETCHING void
prefetch_nodes(PyObject *nodes, Py_ssize_t low, Py_ssize_t high)
{
    if (!PyList_CheckExact(nodes)) {
        return;
    }
    for (Py_ssize_t i = low; i <= high && i < PyList_GET_SIZE(nodes); i++) {
        PREFETCH(PyList_GET_ITEM(nodes, i));
        PREFETCH((char *)PyList_GET_ITEM(nodes, i) + sizeof(Persistent));
    }
}

/* Ask the processor for where a list has its elements, as many as a usual node has. */
PREFETCHING void
prefetch_elements(PyObject *nodes)
{
    if (PyList_CheckExact(nodes)) {
        char *elements = (char *)((PyListObject *)nodes)->ob_item;
        PREFETCH(elements);
        PREFETCH(elements + 64);
        PREFETCH(elements + 128);
        PREFETCH(elements + 192);
    }
}

/* Give the position of the first item whose key is not less than that of the probe, or -1.

   `*found` becomes 1 or 0, as the item there has the key or not; -1 if that is to be asked. `nodes`,
   owned by the caller, is where the search may go on, or NULL: that is made ready only. */
static inline Py_ssize_t
search(PyObject *items, PyObject *nodes, Probe *probe, int *found)
{
    Py_ssize_t low = 0;
    Py_ssize_t high = PyList_CheckExact(items) ? PyList_GET_SIZE(items) : PySequence_Size(items);
    *found = 0;
    int is_known = 1;
    for (int steps = 0; low < high; steps++) {
        if (steps % 3 == 0 && probe->fast_type != NULL && PyList_CheckExact(items)
            && high <= PyList_GET_SIZE(items)) {
            prefetch_keys(((PyListObject *)items)->ob_item, low, high);
            if (nodes != NULL) {
                if (steps == 0) {
                    prefetch_elements(nodes);
                }
                else {
                    prefetch_nodes(nodes, low, Py_MIN(high, low + AHEAD));
                }
            }
        }
        Py_ssize_t middle = low + (high - low) / 2;
        int order, less;
        if (PyList_CheckExact(items) && middle < PyList_GET_SIZE(items)
            && compare_fast(PyList_GET_ITEM(items, middle), probe, &order)) {
            less = order < 0;
            if (!less) {
                *found = order == 0;
            }
        }
        else {
            PyObject *item = PySequence_GetItem(items, middle);
            if (item == NULL) {
                return -1;
            }
            less = is_less(item, probe);
            Py_DECREF(item);
            if (less < 0) {
                return -1;
            }
            is_known = 0;
        }
        if (less) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    if (!is_known) {
        *found = -1;
    }
    return high < 0 ? -1 : low;
}

static int
has_key(PyObject *item, PyObject *key)
{
    PyObject *found = key_of(item);
    PyObject *equal = found == NULL ? NULL : PyObject_RichCompare(found, key, Py_EQ);
    int result = equal == NULL ? -1 : PyObject_IsTrue(equal);
    Py_XDECREF(equal);
    Py_XDECREF(found);
    return result;
}

/* Tell whether items[position] has the key, if `found` does not tell already. */
static int
is_there(PyObject *items, Py_ssize_t position, PyObject *key, int found)
{
    if (found >= 0) {
        return found;
    }
    Py_ssize_t length = length_of(items);
    if (position >= length) {
        return length < 0 ? -1 : 0;
    }
    PyObject *item = element_of(items, position);
    int result = item == NULL ? -1 : has_key(item, key);
    Py_XDECREF(item);
    return result;
}

/* -- the keys of a node, side by side -------------------------------------------------------------- */

/* Most of a search in a large tree is waiting for memory: at each step for a pair, then for its key. So
   a node whose keys are all exactly `int`, and of 64 bits, has them in a table as well. It is made when
   the node is searched for the second time with the same items; the node has it in a slot of its own,
   which is neither stored nor looked at by anything else.

   Anybody may change the items, so what a search in tables finds is checked in the items: the key is
   there, or it belongs between two that are neighbours in a leaf. On the way to the leaf nothing is
   checked; a key that belongs at its edge is looked for once more, with a check in each node. So tables
   that do not fit cost time, and lead nowhere else. */

typedef struct {
    PyObject_HEAD
    PyObject *items; /* the list that the table was made for; not owned, and never looked into */
    Py_ssize_t count, room;
    long long numbers[1];
} KeyTable;

static PyTypeObject KeyTableType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.KeyTable",
    .tp_doc = "The keys of a node, as numbers.",
    .tp_basicsize = offsetof(KeyTable, numbers),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)PyObject_Free,
};

/* What a node has in its slot in place of a table. */
#define SEARCHED_ONCE Py_None
#define HAS_OTHER_KEYS Py_False

/* Give where a node has its table, or NULL if its class has no place for one. */
static inline PyObject **
table_slot(PyObject *node)
{
    Py_ssize_t offset = layout_of(Py_TYPE(node))->keys;
    return offset == 0 ? NULL : (PyObject **)((char *)node + offset);
}

static inline KeyTable *
table_in(PyObject **slot)
{
    return slot != NULL && *slot != NULL && Py_IS_TYPE(*slot, &KeyTableType) ? (KeyTable *)*slot : NULL;
}

static void
drop_table(PyObject *node)
{
    PyObject **slot = table_slot(node);
    if (table_in(slot) != NULL) {
        Py_SETREF(*slot, Py_NewRef(SEARCHED_ONCE));
    }
}

static inline int
number_at(PyObject *items, Py_ssize_t position, long long *number)
{
    PyObject *item = PyList_GET_ITEM(items, position);
    if (!PyTuple_CheckExact(item) || PyTuple_GET_SIZE(item) == 0) {
        return 0;
    }
    PyObject *key = PyTuple_GET_ITEM(item, 0);
    return PyLong_CheckExact(key) && as_number(key, number);
}

/* Give an empty table with room for so many keys and one more, or NULL; no exception is set. */
static KeyTable *
new_table(PyObject *items, Py_ssize_t room)
{
    size_t size = offsetof(KeyTable, numbers) + ((size_t)room + 1) * sizeof(long long);
    KeyTable *table = PyObject_Malloc(size);
    if (table != NULL) {
        PyObject_Init((PyObject *)table, &KeyTableType);
        table->items = items;
        table->count = 0;
        table->room = room + 1;
    }
    return table;
}

/* Give the table of a list of items, or NULL if it has other keys. */
static KeyTable *
make_table(PyObject *items, Py_ssize_t room)
{
    Py_ssize_t count = PyList_GET_SIZE(items);
    KeyTable *table = new_table(items, Py_MAX(room, count));
    for (; table != NULL && table->count < count; table->count++) {
        long long *number = &table->numbers[table->count];
        if (!number_at(items, table->count, number) || (table->count > 0 && *number <= number[-1])) {
            Py_CLEAR(table);
            break;
        }
    }
    return table;
}

/* Give the table of a node with these items, borrowed, or NULL if it has none now. */
static KeyTable *
table_of(PyObject *node, PyObject *items)
{
    PyObject **slot = table_slot(node);
    if (slot == NULL || !PyList_CheckExact(items)) {
        return NULL;
    }
    KeyTable *table = table_in(slot);
    if (table != NULL) {
        if (table->items == items && table->count == PyList_GET_SIZE(items)) {
            return table;
        }
        drop_table(node);
        return NULL;
    }
    if (*slot == NULL) {
        *slot = Py_NewRef(SEARCHED_ONCE);
    }
    else if (*slot == SEARCHED_ONCE) {
        Py_ssize_t degree = layout_of(Py_TYPE(node))->degree;
        table = make_table(items, degree < 1024 ? 2 * degree : 0);
        Py_SETREF(*slot, table == NULL ? Py_NewRef(HAS_OTHER_KEYS) : (PyObject *)table);
    }
    return table;
}

/* Give the position of the first key in a table that is not less than that of the probe. */
static inline Py_ssize_t
position_in_table(const KeyTable *table, const Probe *probe)
{
    Py_ssize_t low = 0;
    for (Py_ssize_t left = table->count; left > 0;) {
        Py_ssize_t half = left / 2;
        int less = table->numbers[low + half] < probe->number; /* as good as random: no branch */
        low = less ? low + half + 1 : low;
        left = less ? left - half - 1 : half;
    }
    return low;
}

/* Tell whether the key of the probe is at the position in the items, or belongs there; -1 if neither. */
static inline int
check_position(PyObject *items, Py_ssize_t position, const Probe *probe)
{
    long long number;
    if (position < PyList_GET_SIZE(items)) {
        if (!number_at(items, position, &number) || number < probe->number) {
            return -1;
        }
        if (number == probe->number) {
            return 1;
        }
    }
    if (position > 0 && !(number_at(items, position - 1, &number) && number < probe->number)) {
        return -1;
    }
    return 0;
}

/* Do what search() does, in the items of a node. */
static inline Py_ssize_t
search_node(PyObject *node, PyObject *items, Probe *probe, int *found)
{
    KeyTable *table = probe->fast_type == &PyLong_Type ? table_of(node, items) : NULL;
    if (table != NULL) {
        Py_ssize_t position = position_in_table(table, probe);
        *found = check_position(items, position, probe);
        if (*found >= 0) {
            return position;
        }
        drop_table(node);
    }
    PyObject *nodes = peek_nodes(node);
    Py_ssize_t position = search(items, nodes, probe, found);
    Py_XDECREF(nodes);
    return position;
}

/* Where a search has ended. */
typedef struct {
    PyObject *node, *items; /* owned, or NULL */
    Py_ssize_t position;
    PyObject *item; /* owned: what has the key; NULL: the node is the leaf where it belongs */
} Place;

static void
leave_place(Place *place)
{
    Py_XDECREF(place->node);
    Py_XDECREF(place->items);
    Py_XDECREF(place->item);
}

/* A tree whose nodes lead in a circle has no end; a signal must get through. */
static inline int
count_level(int *levels)
{
    return (++*levels & 63) == 0 ? PyErr_CheckSignals() : 0;
}

/* Search down through nodes that have tables, as far as they lead without doubt.

   Give 1 and the leaf where the key is, or belongs, or the inner node where it is; 0 if that has to be
   found out without tables, or with more checks; -1 upon an error. No key is compared by a call. */
static int
go_by_tables(PyObject *root, const Probe *probe, Place *place)
{
    int levels = 0;
    place->node = Py_NewRef(root);
    place->items = place->item = NULL;
    for (;;) {
        Py_XSETREF(place->items, items_of(place->node));
        if (place->items == NULL) {
            return -1;
        }
        KeyTable *table = table_in(table_slot(place->node));
        if (table == NULL || table->items != place->items || !PyList_CheckExact(place->items)
            || table->count != PyList_GET_SIZE(place->items)) {
            return 0;
        }
        PyObject *nodes = peek_nodes(place->node);
        if (nodes == NULL) {
            return 0;
        }
        int inner = PyList_CheckExact(nodes) && PyList_GET_SIZE(nodes) != 0;
        prefetch_elements(nodes);
        Py_ssize_t position = place->position = position_in_table(table, probe);
        PyObject *child = NULL;
        int result = 0;
        if (inner && (position == table->count || table->numbers[position] != probe->number)) {
            if (position < PyList_GET_SIZE(nodes)) {
                child = Py_NewRef(PyList_GET_ITEM(nodes, position));
            }
        }
        else if (inner || nodes == Py_None) {
            int found = check_position(place->items, position, probe);
            if (found > 0) {
                place->item = Py_NewRef(PyList_GET_ITEM(place->items, position));
            }
            /* A key that an inner node lost may have gone to a leaf below. */
            result = found > 0 || (found == 0 && !inner && position > 0 && position < table->count);
        }
        Py_DECREF(nodes);
        if (child == NULL) {
            return result;
        }
        Py_SETREF(place->node, child);
        if (count_level(&levels) < 0) {
            return -1;
        }
    }
}

/* Have the table of a node, if it has one, fit a list that has one more item, at the position. */
static void
grow_table(PyObject *node, PyObject *items, Py_ssize_t position)
{
    KeyTable *table = table_in(table_slot(node));
    if (table == NULL) {
        return;
    }
    long long number;
    if (!PyList_CheckExact(items) || PyList_GET_SIZE(items) != table->count + 1
        || table->count >= table->room || position > table->count
        || !number_at(items, position, &number)) {
        drop_table(node);
        return;
    }
    memmove(table->numbers + position + 1, table->numbers + position,
            (size_t)(table->count - position) * sizeof(long long));
    table->numbers[position] = number;
    table->count++;
    table->items = items;
}

/* Divide the table of a node, if it has one, after so many keys: the next one belongs to neither. */
static void
split_table(PyObject *node, PyObject *items, PyObject *right, PyObject *right_items)
{
    KeyTable *table = table_in(table_slot(node));
    PyObject **slot = table_slot(right);
    Py_ssize_t middle = PyList_GET_SIZE(items), count = PyList_GET_SIZE(right_items);
    if (table == NULL || table->count != middle + 1 + count) {
        drop_table(node);
        return;
    }
    KeyTable *right_table = slot == NULL || *slot != NULL ? NULL : new_table(right_items, table->room - 1);
    if (right_table != NULL) {
        memcpy(right_table->numbers, table->numbers + middle + 1, (size_t)count * sizeof(long long));
        right_table->count = count;
        *slot = (PyObject *)right_table;
    }
    table->count = middle;
    table->items = items;
}

/* -- searching a tree ------------------------------------------------------------------------------ */

/* Take the item at the place if it has the key, which `found` may say already. */
static int
take_item(Place *place, PyObject *key, int found)
{
    Py_ssize_t length = length_of(place->items);
    if (place->position >= length) {
        return length < 0 ? -1 : 0;
    }
    PyObject *item = element_of(place->items, place->position);
    if (item == NULL) {
        return -1;
    }
    if (found < 0) {
        found = has_key(item, key);
    }
    if (found > 0) {
        place->item = item;
    }
    else {
        Py_DECREF(item);
    }
    return found;
}

/* Search down to the item with the key, or to the leaf where it belongs. */
static int
go_to(PyObject *root, Probe *probe, Place *place)
{
    if (probe->fast_type == &PyLong_Type) {
        int result = go_by_tables(root, probe, place);
        if (result != 0) {
            return result < 0 ? -1 : 0;
        }
        leave_place(place);
    }
    int levels = 0;
    place->node = Py_NewRef(root);
    place->items = place->item = NULL;
    for (;;) {
        Py_XSETREF(place->items, items_of(place->node));
        if (place->items == NULL) {
            return -1;
        }
        int found;
        place->position = search_node(place->node, place->items, probe, &found);
        if (place->position < 0) {
            return -1;
        }
        if (found != 0) {
            found = take_item(place, probe->key, found);
            if (found != 0) {
                return found < 0 ? -1 : 0;
            }
        }
        PyObject *nodes = nodes_of(place->node);
        if (nodes == NULL) {
            return -1;
        }
        int inner = has_children(nodes);
        if (inner <= 0) {
            Py_DECREF(nodes);
            return inner;
        }
        PyObject *child = element_of(nodes, place->position);
        Py_DECREF(nodes);
        if (child == NULL || count_level(&levels) < 0) {
            Py_XDECREF(child);
            return -1;
        }
        Py_SETREF(place->node, child);
    }
}

static int
check_count(const char *name, Py_ssize_t count, Py_ssize_t least, Py_ssize_t most)
{
    if (count < least || count > most) {
        PyErr_Format(PyExc_TypeError, "%s takes %zd to %zd arguments, got %zd", name, least, most, count);
        return -1;
    }
    return 0;
}

static PyObject *
find_item(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (check_count("find_item", count, 2, 2) < 0) {
        return NULL;
    }
    Probe probe;
    Place place;
    PyObject *item = NULL;
    start_probe(&probe, args[1]);
    if (go_to(args[0], &probe, &place) == 0) {
        item = Py_NewRef(place.item == NULL ? Py_None : place.item);
    }
    leave_place(&place);
    end_probe(&probe);
    return item;
}

static PyObject *
find_holder(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (check_count("find_holder", count, 2, 2) < 0) {
        return NULL;
    }
    Probe probe;
    Place place;
    PyObject *holder = NULL;
    start_probe(&probe, args[1]);
    if (go_to(args[0], &probe, &place) == 0) {
        holder = place.item == NULL ? Py_NewRef(Py_None)
                                    : Py_BuildValue("(On)", place.node, place.position);
    }
    leave_place(&place);
    end_probe(&probe);
    return holder;
}

static PyObject *
position_of(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (check_count("position_of", count, 2, 2) < 0) {
        return NULL;
    }
    Probe probe;
    int found;
    start_probe(&probe, args[1]);
    Py_ssize_t position = search(args[0], NULL, &probe, &found);
    end_probe(&probe);
    return position < 0 ? NULL : PyLong_FromSsize_t(position);
}

/* -- adding ---------------------------------------------------------------------------------------- */

/* Give how many items a node may have, or -1. */
static Py_ssize_t
capacity_of(PyObject *node)
{
    Py_ssize_t minimum = layout_of(Py_TYPE(node))->degree;
    if (minimum == 0) {
        PyObject *degree = PyObject_GetAttr(node, str_minimum_degree);
        if (degree == NULL) {
            return -1;
        }
        minimum = PyLong_AsSsize_t(degree);
        Py_DECREF(degree);
        if (minimum == -1 && PyErr_Occurred()) {
            return -1;
        }
    }
    return minimum <= 0 ? 0 : 2 * Py_MIN(minimum, PY_SSIZE_T_MAX / 2) - 1;
}

/* Tell whether a node with these items has room for another. */
static int
has_room(PyObject *node, PyObject *items)
{
    Py_ssize_t capacity = capacity_of(node);
    Py_ssize_t length = capacity < 0 ? -1 : length_of(items);
    return length < 0 ? -1 : length < capacity;
}

static int
set_element(PyObject *items, Py_ssize_t position, PyObject *item)
{
    PyObject *index = PyLong_FromSsize_t(position);
    int result = index == NULL ? -1 : PyObject_SetItem(items, index, item);
    Py_XDECREF(index);
    return result;
}

static int
insert_element(PyObject *items, Py_ssize_t position, PyObject *item)
{
    if (PyList_CheckExact(items)) {
        return PyList_Insert(items, position, item);
    }
    PyObject *result = PyObject_CallMethod(items, "insert", "nO", position, item);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Give sequence[start:stop], or sequence[start:] if `stop` is negative. */
static PyObject *
part_of(PyObject *sequence, Py_ssize_t start, Py_ssize_t stop)
{
    if (PyList_CheckExact(sequence)) {
        return PyList_GetSlice(sequence, start, stop < 0 ? PY_SSIZE_T_MAX : stop);
    }
    PyObject *from = PyLong_FromSsize_t(start);
    PyObject *to = stop < 0 ? Py_NewRef(Py_None) : PyLong_FromSsize_t(stop);
    PyObject *slice = from == NULL || to == NULL ? NULL : PySlice_New(from, to, NULL);
    PyObject *part = slice == NULL ? NULL : PyObject_GetItem(sequence, slice);
    Py_XDECREF(from);
    Py_XDECREF(to);
    Py_XDECREF(slice);
    return part;
}

/* Give nodes[start:stop] of an inner node, and None for a leaf. */
static PyObject *
part_of_nodes(PyObject *nodes, Py_ssize_t start, Py_ssize_t stop)
{
    int inner = has_children(nodes);
    if (inner <= 0) {
        return inner < 0 ? NULL : Py_NewRef(Py_None);
    }
    return part_of(nodes, start, stop);
}

/* Give a new list of what is in the sequence, with the element at the position. */
static PyObject *
list_with(PyObject *sequence, Py_ssize_t position, PyObject *element)
{
    PyObject *before = part_of(sequence, 0, position);
    PyObject *after = before == NULL ? NULL : part_of(sequence, position, -1);
    PyObject *list = after == NULL ? NULL : PySequence_List(before);
    if (list != NULL) {
        Py_ssize_t length = PyList_GET_SIZE(list);
        if (PyList_Append(list, element) < 0
            || PyList_SetSlice(list, length + 1, length + 1, after) < 0) {
            Py_CLEAR(list);
        }
    }
    Py_XDECREF(before);
    Py_XDECREF(after);
    return list;
}

static PyObject *
nodes_with(PyObject *nodes, Py_ssize_t position, PyObject *node)
{
    int inner = has_children(nodes);
    return inner > 0 ? list_with(nodes, position, node) : inner < 0 ? NULL : Py_BuildValue("[O]", node);
}

static int
set_node(PyObject *node, PyObject *items, PyObject *nodes)
{
    return PyObject_SetAttr(node, str_items, items) < 0 ? -1 : PyObject_SetAttr(node, str_nodes, nodes);
}

/* Add a new node of the same class to `made`, and give it as well, borrowed. */
static PyObject *
make_node(PyObject *like, PyObject *items, PyObject *nodes, PyObject *made)
{
    PyObject *node = PyObject_CallNoArgs((PyObject *)Py_TYPE(like));
    if (node == NULL) {
        return NULL;
    }
    int result = set_node(node, items, nodes) < 0 ? -1 : PyList_Append(made, node);
    Py_DECREF(node);
    return result < 0 ? NULL : node;
}

/* A node on the way to where a key is or belongs, and the position of the key or of the next node. */
typedef struct {
    PyObject *node; /* owned */
    Py_ssize_t position;
    PyObject *items, *nodes; /* owned: what the node is to get, or NULL */
} Turn;

typedef struct {
    Turn *turns;
    Py_ssize_t depth, room;
} Path;

static void
leave_path(Path *path)
{
    while (path->depth > 0) {
        Turn turn = path->turns[--path->depth];
        Py_DECREF(turn.node);
        Py_XDECREF(turn.items);
        Py_XDECREF(turn.nodes);
    }
    PyMem_Free(path->turns);
}

static int
add_turn(Path *path, PyObject *node, Py_ssize_t position)
{
    if (path->depth == path->room) {
        Py_ssize_t room = 2 * path->room + 6;
        Turn *turns = PyMem_Resize(path->turns, Turn, room);
        if (turns == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        path->turns = turns;
        path->room = room;
    }
    path->turns[path->depth++] = (Turn){Py_NewRef(node), position, NULL, NULL};
    return 0;
}

static void
plan_change(Turn *turn, PyObject *items, PyObject *nodes)
{
    turn->items = Py_NewRef(items);
    turn->nodes = Py_NewRef(nodes);
}

static int
make_changes(const Path *path)
{
    for (Py_ssize_t i = path->depth; i > 0; i--) {
        const Turn *turn = &path->turns[i - 1];
        if (turn->items != NULL && set_node(turn->node, turn->items, turn->nodes) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Find the position in a node and add it to the path; give the next node, or NULL at the end of the
   path and upon an error. */
static PyObject *
take_turn(Path *path, PyObject *node, Probe *probe)
{
    PyObject *items = items_of(node);
    PyObject *nodes = items == NULL ? NULL : nodes_of(node);
    PyObject *child = NULL;
    if (nodes != NULL) {
        int found;
        Py_ssize_t position = search_node(node, items, probe, &found);
        if (position >= 0 && add_turn(path, node, position) == 0 && has_children(nodes) > 0
            && is_there(items, position, probe->key, found) == 0) {
            child = element_of(nodes, position);
        }
    }
    Py_XDECREF(items);
    Py_XDECREF(nodes);
    return child;
}

static int
find_path(PyObject *root, Probe *probe, Path *path)
{
    int levels = 0;
    PyObject *node = Py_NewRef(root);
    while (node != NULL && count_level(&levels) == 0) {
        Py_SETREF(node, take_turn(path, node, probe));
    }
    Py_XDECREF(node);
    return PyErr_Occurred() ? -1 : 0;
}

/* Note the change of every node that a split reaches: each that is full, and the first that is not. */
static int
note_path_change(const Path *path)
{
    int room = 0;
    for (Py_ssize_t i = path->depth; i > 0 && room == 0; i--) {
        PyObject *node = path->turns[i - 1].node;
        PyObject *items = note_node_change(node) < 0 ? NULL : items_of(node);
        room = items == NULL ? -1 : has_room(node, items);
        Py_XDECREF(items);
    }
    return room < 0 ? -1 : 0;
}

/* Plan the split of a node that has these contents, more than it may have. `*item` becomes the item between the
   two halves; give the right one, borrowed. The root keeps that item only, above two new nodes. */
static PyObject *
split(Turn *turn, PyObject *items, PyObject *nodes, PyObject **item, PyObject *made, int is_root)
{
    PyObject *node = turn->node;
    Py_ssize_t middle = PyList_GET_SIZE(items) / 2;
    PyObject *right_items = part_of(items, middle + 1, -1);
    PyObject *right_nodes = part_of_nodes(nodes, middle + 1, -1);
    PyObject *left_items = part_of(items, 0, middle);
    PyObject *left_nodes = NULL;
    PyObject *right = NULL;
    int result = -1;
    if (right_items != NULL && right_nodes != NULL && left_items != NULL) {
        right = make_node(node, right_items, right_nodes, made);
    }
    if (right != NULL) {
        left_nodes = part_of_nodes(nodes, 0, middle + 1);
        Py_SETREF(*item, Py_NewRef(PyList_GET_ITEM(items, middle)));
    }
    if (left_nodes != NULL && !is_root) {
        plan_change(turn, left_items, left_nodes);
        result = 0;
        split_table(node, left_items, right, right_items);
    }
    else if (left_nodes != NULL) {
        PyObject *left = make_node(node, left_items, left_nodes, made);
        PyObject *top = left == NULL ? NULL : Py_BuildValue("[O][OO]", *item, left, right);
        if (top != NULL) {
            plan_change(turn, PyTuple_GET_ITEM(top, 0), PyTuple_GET_ITEM(top, 1));
            result = 0;
        }
        Py_XDECREF(top);
    }
    Py_XDECREF(right_items);
    Py_XDECREF(right_nodes);
    Py_XDECREF(left_items);
    Py_XDECREF(left_nodes);
    return result < 0 ? NULL : right;
}

/* Add an item where the path ends, and split every full node, up to one that has room.

   No node of the tree is changed before all new ones are made: what makes them runs Python, and the
   handler of a signal may raise there. */
static int
put_along(Path *path, PyObject *new_item, PyObject *made)
{
    PyObject *item = Py_NewRef(new_item);
    PyObject *right = NULL; /* split off below, it follows the item; borrowed: it is in `made` */
    int result = 1;         /* there is more to do */
    for (Py_ssize_t i = path->depth - 1; result > 0; i--) {
        Turn *turn = &path->turns[i];
        PyObject *old_items = items_of(turn->node);
        PyObject *nodes = old_items == NULL ? NULL : nodes_of(turn->node);
        PyObject *items = nodes == NULL ? NULL : list_with(old_items, turn->position, item);
        if (items != NULL && right != NULL) {
            Py_SETREF(nodes, nodes_with(nodes, turn->position + 1, right));
        }
        Py_ssize_t capacity = items == NULL || nodes == NULL ? -1 : capacity_of(turn->node);
        if (capacity < 0) {
            result = -1;
        }
        else {
            grow_table(turn->node, items, turn->position);
        }
        if (result > 0 && PyList_GET_SIZE(items) <= capacity) {
            plan_change(turn, items, nodes);
            result = 0;
        }
        else if (result > 0) {
            right = split(turn, items, nodes, &item, made, i == 0);
            result = right == NULL ? -1 : i > 0;
        }
        Py_XDECREF(old_items);
        Py_XDECREF(items);
        Py_XDECREF(nodes);
    }
    Py_DECREF(item);
    return result < 0 ? -1 : make_changes(path);
}

/* Add an item whose leaf is full; give a list of the nodes that were made. */
static PyObject *
put_and_split(PyObject *root, Probe *probe, PyObject *item)
{
    Path path = {0};
    PyObject *made = NULL;
    if (find_path(root, probe, &path) == 0 && note_path_change(&path) == 0) {
        made = PyList_New(0);
    }
    if (made != NULL && put_along(&path, item, made) < 0) {
        Py_CLEAR(made);
    }
    leave_path(&path);
    return made;
}

enum { FULL = 2 };

/* Give 1 if the item was added, 0 if it took the place of another, FULL if there is no room. */
static int
put_at(const Place *place, const Probe *probe, PyObject *item)
{
    if (place->item == NULL) {
        int room = has_room(place->node, place->items);
        if (room <= 0) {
            return room < 0 ? -1 : FULL;
        }
    }
    if (note_node_change(place->node) < 0) {
        return -1;
    }
    if (place->item != NULL) {
        if (probe->fast_type != &PyLong_Type) {
            drop_table(place->node); /* the new key is equal, and yet another */
        }
        return set_element(place->items, place->position, item);
    }
    if (insert_element(place->items, place->position, item) < 0) {
        return -1;
    }
    grow_table(place->node, place->items, place->position);
    return 1;
}

/* Give the nodes that were made, which may be none, or None if the item took the place of another. */
static PyObject *
put_into(PyObject *root, PyObject *key, PyObject *item)
{
    Probe probe;
    Place place;
    start_probe(&probe, key);
    int result = go_to(root, &probe, &place) < 0 ? -1 : put_at(&place, &probe, item);
    leave_place(&place);
    PyObject *made = result == FULL ? put_and_split(root, &probe, item)
        : result < 0 ? NULL : Py_NewRef(result ? empty_tuple : Py_None);
    end_probe(&probe);
    return made;
}

static PyObject *
put(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (check_count("put", count, 2, 2) < 0) {
        return NULL;
    }
    PyObject *key = key_of(args[1]);
    PyObject *made = key == NULL ? NULL : put_into(args[0], key, args[1]);
    Py_XDECREF(key);
    return made;
}

/* -- walking in order ------------------------------------------------------------------------------ */

/* A node on the way of a walk, and which of its children the way goes through. */
typedef struct {
    PyObject *node, *nodes;
    Py_ssize_t position;
} Step;

typedef struct {
    PyObject_HEAD
    PyObject *root;        /* NULL once the walk has ended */
    PyObject *start, *end; /* keys, or NULL */
    Step *path;
    Py_ssize_t depth, room;
    PyObject *run;         /* a list of its own, ascending; NULL before the first */
    Py_ssize_t next, stop; /* positions in the run; `next` goes up to `stop`, or down to it */
    int8_t start_closed, end_closed;
    int8_t is_backward;
    int8_t part;       /* what is given of each item: 0 the key, 1 the value, -1 all */
    int8_t is_last;    /* the end lies in this run */
    int8_t is_running; /* the next run is being looked for, and whatever code runs meanwhile */
} Walk;

static PyTypeObject WalkType;

static void
cut_path(Walk *self, Py_ssize_t depth)
{
    while (self->depth > depth) {
        Step step = self->path[--self->depth];
        Py_DECREF(step.node);
        Py_DECREF(step.nodes);
    }
}

static int
push_step(Walk *self, PyObject *node, PyObject *nodes, Py_ssize_t position)
{
    if (self->depth == self->room) {
        Py_ssize_t room = 2 * self->room + 6;
        Step *path = PyMem_Resize(self->path, Step, room);
        if (path == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->path = path;
        self->room = room;
    }
    self->path[self->depth++] = (Step){Py_NewRef(node), Py_NewRef(nodes), position};
    return 0;
}

static int
is_way_still_there(Walk *self)
{
    for (Py_ssize_t i = 0; i < self->depth; i++) {
        PyObject *nodes = nodes_of(self->path[i].node);
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

/* Give list(items[start:stop]). */
static PyObject *
slice_of(PyObject *items, Py_ssize_t start, Py_ssize_t stop)
{
    PyObject *from = PyLong_FromSsize_t(start), *to = PyLong_FromSsize_t(stop);
    PyObject *slice = from == NULL || to == NULL ? NULL : PySlice_New(from, to, NULL);
    PyObject *part = slice == NULL ? NULL : PyObject_GetItem(items, slice);
    PyObject *list = part == NULL ? NULL : PySequence_List(part);
    Py_XDECREF(from);
    Py_XDECREF(to);
    Py_XDECREF(slice);
    Py_XDECREF(part);
    return list;
}

/* Give a new list of items[start:stop], with `first` before it or `last` after it, if not NULL. */
static PyObject *
copy_run(PyObject *items, Py_ssize_t start, Py_ssize_t stop, PyObject *first, PyObject *last)
{
    PyObject *list = PyList_CheckExact(items) ? Py_NewRef(items) : slice_of(items, start, stop);
    if (list == NULL) {
        return NULL;
    }
    if (list != items) {
        start = 0;
        stop = PyList_GET_SIZE(list);
    }
    Py_ssize_t before = first != NULL;
    PyObject *run = NULL;
    do {
        /* Taking memory may run the garbage collector, and any code: has the list become shorter? */
        stop = Py_MIN(stop, PyList_GET_SIZE(list));
        start = Py_MIN(start, stop);
        Py_XSETREF(run, PyList_New(before + stop - start + (last != NULL)));
    } while (run != NULL && stop > PyList_GET_SIZE(list));
    if (run == NULL) {
        Py_DECREF(list);
        return NULL;
    }
    if (first != NULL) {
        PyList_SET_ITEM(run, 0, Py_NewRef(first));
    }
    for (Py_ssize_t i = start; i < stop; i++) {
        PyList_SET_ITEM(run, before + i - start, Py_NewRef(PyList_GET_ITEM(list, i)));
    }
    if (last != NULL) {
        PyList_SET_ITEM(run, before + stop - start, Py_NewRef(last));
    }
    Py_DECREF(list);
    for (Py_ssize_t i = before; i < before + stop - start; i++) {
        prefetch_parts(PyList_GET_ITEM(run, i));
    }
    return run;
}

/* Give where the walk is to go on in a node, or -1.

   `*arrived` becomes 1 if the item with the key is here and the walk starts with it. */
static Py_ssize_t
find_way(Walk *self, PyObject *items, PyObject *key, int closed, int *arrived)
{
    *arrived = 0;
    if (key == NULL) {
        return self->is_backward ? length_of(items) : 0;
    }
    Probe probe;
    int found;
    start_probe(&probe, key);
    Py_ssize_t position = search(items, NULL, &probe, &found);
    end_probe(&probe);
    if (position < 0) {
        return -1;
    }
    if (self->is_backward && !closed) {
        return position;
    }
    found = is_there(items, position, key, found);
    if (found < 0) {
        return -1;
    }
    *arrived = found && closed;
    return position + (found && closed == self->is_backward);
}

/* Extend the first `keep` steps of the path to a leaf; give its items from `key` on (or up to it),
   together with `item`, if not NULL, from where the way to it began. */
static PyObject *
go_down(Walk *self, PyObject *top, PyObject *key, int closed, Py_ssize_t keep, PyObject *item)
{
    PyObject *node = Py_NewRef(top), *items = NULL, *nodes = NULL, *run = NULL;
    int levels = 0;
    cut_path(self, keep);
    for (;;) {
        int arrived;
        Py_XSETREF(items, items_of(node));
        if (items == NULL) {
            break;
        }
        Py_XSETREF(nodes, nodes_of(node));
        if (nodes == NULL) {
            break;
        }
        Py_ssize_t position = find_way(self, items, key, closed, &arrived);
        if (position < 0) {
            break;
        }
        int inner = has_children(nodes);
        if (inner < 0) {
            break;
        }
        if (!inner) {
            Py_ssize_t length = length_of(items);
            if (length >= 0) {
                run = self->is_backward ? copy_run(items, 0, position, NULL, item)
                                        : copy_run(items, position, length, item, NULL);
            }
            break;
        }
        if (push_step(self, node, nodes, position) < 0) {
            break;
        }
        if (arrived) {
            run = PyList_New(0);
            break;
        }
        PyObject *child = element_of(nodes, position);
        if (child == NULL || count_level(&levels) < 0) {
            Py_XDECREF(child);
            break;
        }
        Py_SETREF(node, child);
    }
    Py_DECREF(node);
    Py_XDECREF(items);
    Py_XDECREF(nodes);
    return run;
}

/* Give the item of an inner node that comes next, and what follows it down to a leaf; an empty list
   at the end of the tree. */
static PyObject *
go_up_and_down(Walk *self)
{
    while (self->depth > 0) {
        Step *step = &self->path[self->depth - 1];
        PyObject *items = items_of(step->node);
        if (items == NULL) {
            return NULL;
        }
        Py_ssize_t length = length_of(items);
        if (length < 0 || (self->is_backward ? step->position == 0 : step->position >= length)) {
            Py_DECREF(items);
            if (length < 0) {
                return NULL;
            }
            cut_path(self, self->depth - 1);
            continue;
        }
        PyObject *item = element_of(items, step->position - self->is_backward);
        Py_DECREF(items);
        if (item == NULL) {
            return NULL;
        }
        step->position += self->is_backward ? -1 : 1;
        PyObject *child = element_of(step->nodes, step->position);
        PyObject *run = child == NULL ? NULL : go_down(self, child, NULL, 1, self->depth, item);
        Py_XDECREF(child);
        Py_DECREF(item);
        return run;
    }
    return PyList_New(0);
}

/* Give the run that follows the last one, which may be empty at the end of the tree only. */
static PyObject *
find_run(Walk *self)
{
    PyObject *run = NULL;
    if (self->run == NULL) {
        run = go_down(self, self->root, self->start, self->start_closed, 0, NULL);
        if (run == NULL) {
            return NULL;
        }
    }
    else {
        Py_ssize_t last = self->is_backward ? 0 : PyList_GET_SIZE(self->run) - 1;
        PyObject *key = key_of(PyList_GET_ITEM(self->run, last));
        int is_there = key == NULL ? -1 : is_way_still_there(self);
        if (is_there == 0) {
            run = go_down(self, self->root, key, 0, 0, NULL);
        }
        Py_XDECREF(key);
        if (is_there < 0 || (is_there == 0 && run == NULL)) {
            return NULL;
        }
    }
    if (run != NULL && PyList_GET_SIZE(run) > 0) {
        return run;
    }
    Py_XDECREF(run);
    return go_up_and_down(self);
}

/* Find which part of a run lies before the end of the walk: from `*next` to, but without, `*stop`. */
static int
find_limits(Walk *self, PyObject *run, Py_ssize_t *next, Py_ssize_t *stop)
{
    Py_ssize_t length = PyList_GET_SIZE(run);
    *next = self->is_backward ? length - 1 : 0;
    *stop = self->is_backward ? -1 : length;
    if (self->end == NULL) {
        return 0;
    }
    Probe probe;
    int found;
    start_probe(&probe, self->end);
    Py_ssize_t position = search(run, NULL, &probe, &found);
    end_probe(&probe);
    if (position < 0) {
        return -1;
    }
    if (position == length) {
        if (self->is_backward) {
            self->is_last = 1;
            *stop = length - 1;
        }
        return 0;
    }
    if (self->is_backward || self->end_closed) {
        found = is_there(run, position, self->end, found);
        if (found < 0) {
            return -1;
        }
    }
    if (self->is_backward) {
        self->is_last = position > 0 || found;
        *stop = position - 1 + (found && !self->end_closed);
    }
    else {
        self->is_last = 1;
        *stop = position + (self->end_closed && found);
    }
    return 0;
}

/* Take the next run; give 0 if there is none, or an error. */
static int
go_on(Walk *self)
{
    if (self->is_running) {
        PyErr_SetString(PyExc_ValueError, "a walk over a BTree was asked to go on by what it called");
        return 0;
    }
    if (self->root == NULL || self->is_last) {
        return 0;
    }
    self->is_running = 1;
    Py_ssize_t next, stop;
    PyObject *run = find_run(self);
    int is_there = run != NULL && PyList_GET_SIZE(run) > 0 && find_limits(self, run, &next, &stop) == 0;
    self->is_running = 0;
    if (!is_there) {
        Py_XDECREF(run);
        return 0;
    }
    PyObject *last = self->run;
    self->run = run;
    self->next = next;
    self->stop = stop;
    Py_XDECREF(last);
    return 1;
}

static int
Walk_clear(Walk *self)
{
    Py_CLEAR(self->root);
    Py_CLEAR(self->start);
    Py_CLEAR(self->end);
    Py_CLEAR(self->run);
    cut_path(self, 0);
    return 0;
}

static PyObject *
Walk_next(Walk *self)
{
    while (self->run == NULL || self->next == self->stop) {
        int was_running = self->is_running;
        if (!go_on(self)) {
            if (!was_running) {
                Walk_clear(self);
            }
            return NULL;
        }
    }
    PyObject *item = PyList_GET_ITEM(self->run, self->next);
    self->next += self->is_backward ? -1 : 1;
    if (self->part < 0) {
        return Py_NewRef(item);
    }
    if (PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) > self->part) {
        return Py_NewRef(PyTuple_GET_ITEM(item, self->part));
    }
    Py_INCREF(item); /* what it runs may take the run away */
    PyObject *result = element_of(item, self->part);
    Py_DECREF(item);
    return result;
}

static int
Walk_traverse(Walk *self, visitproc visit, void *arg)
{
    Py_VISIT(self->root);
    Py_VISIT(self->start);
    Py_VISIT(self->end);
    Py_VISIT(self->run);
    for (Py_ssize_t i = 0; i < self->depth; i++) {
        Py_VISIT(self->path[i].node);
        Py_VISIT(self->path[i].nodes);
    }
    return 0;
}

static void
Walk_dealloc(Walk *self)
{
    PyObject_GC_UnTrack(self);
    Walk_clear(self);
    PyMem_Free(self->path);
    PyObject_GC_Del(self);
}

static PyTypeObject WalkType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.Walk",
    .tp_doc = "An iterator over a B-tree, as ascending() and descending() make it.",
    .tp_basicsize = sizeof(Walk),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_traverse = (traverseproc)Walk_traverse,
    .tp_clear = (inquiry)Walk_clear,
    .tp_dealloc = (destructor)Walk_dealloc,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)Walk_next,
};

/* Take (key, closed), or None for no bound. */
static int
take_bound(PyObject *bound, PyObject **key, int8_t *closed)
{
    if (bound == Py_None) {
        return 0;
    }
    if (!PyTuple_CheckExact(bound) || PyTuple_GET_SIZE(bound) != 2) {
        PyErr_SetString(PyExc_TypeError, "a bound is (key, closed) or None");
        return -1;
    }
    int is_closed = PyObject_IsTrue(PyTuple_GET_ITEM(bound, 1));
    if (is_closed < 0) {
        return -1;
    }
    *key = Py_NewRef(PyTuple_GET_ITEM(bound, 0));
    *closed = (int8_t)is_closed;
    return 0;
}

static PyObject *
make_walk(PyObject *const *args, Py_ssize_t count, const char *name, int is_backward)
{
    if (check_count(name, count, 1, 4) < 0) {
        return NULL;
    }
    long part = -1;
    if (count > 1 && args[1] != Py_None) {
        part = PyLong_AsLong(args[1]);
        if (part != 0 && part != 1) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "a part of an item is 0 or 1, or None for all");
            }
            return NULL;
        }
    }
    Walk *self = PyObject_GC_New(Walk, &WalkType);
    if (self == NULL) {
        return NULL;
    }
    memset((char *)self + sizeof(PyObject), 0, sizeof(Walk) - sizeof(PyObject));
    self->root = Py_NewRef(args[0]);
    self->part = (int8_t)part;
    self->is_backward = (int8_t)is_backward;
    PyObject_GC_Track(self);
    if ((count > 2 && take_bound(args[2], &self->start, &self->start_closed) < 0)
        || (count > 3 && take_bound(args[3], &self->end, &self->end_closed) < 0)) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *
ascending(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return make_walk(args, count, "ascending", 0);
}

static PyObject *
descending(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return make_walk(args, count, "descending", 1);
}

/* -- TreeBase -------------------------------------------------------------------------------------- */

/* What BTree inherits: the operators, on the node in its attribute `root`. */

typedef struct {
    unsigned int version;     /* of the type, as in Layout */
    Py_ssize_t root, census;  /* where the slots are in an instance; 0: ask for the attribute */
    int adds_in_c;            /* the class does not change add */
} TreeLayout;

static PyObject *own_add;

static const TreeLayout *
tree_layout_of(PyTypeObject *type)
{
    static TreeLayout last;
    if (type->tp_version_tag != 0 && type->tp_version_tag == last.version) {
        return &last;
    }
    TreeLayout layout = {0};
    layout.adds_in_c = _PyType_Lookup(type, str_add) == own_add;
    if (type->tp_getattro == Persistent_getattro) {
        layout.root = find_slot_offset(type, str_root);
        layout.census = find_slot_offset(type, str_census);
    }
    layout.version = type->tp_version_tag;
    last = layout;
    return &last;
}

static PyObject *
root_of(PyObject *tree)
{
    return read_slot(tree, tree_layout_of(Py_TYPE(tree))->root, str_root);
}

/* Give 1 and the item with the key, owned; 0 if there is none. */
static int
find_in_tree(PyObject *tree, PyObject *key, PyObject **item)
{
    PyObject *root = root_of(tree);
    if (root == NULL) {
        return -1;
    }
    Probe probe;
    Place place;
    start_probe(&probe, key);
    int result = go_to(root, &probe, &place) < 0 ? -1 : place.item != NULL;
    *item = result > 0 ? Py_NewRef(place.item) : NULL;
    leave_place(&place);
    end_probe(&probe);
    Py_DECREF(root);
    return result;
}

static PyObject *
Tree_subscript(PyObject *self, PyObject *key)
{
    PyObject *item;
    int found = find_in_tree(self, key, &item);
    if (found <= 0) {
        PyObject *args = found < 0 ? NULL : PyTuple_Pack(1, key);
        if (args != NULL) {
            PyErr_SetObject(PyExc_KeyError, args); /* the key by itself might be taken for args */
            Py_DECREF(args);
        }
        return NULL;
    }
    PyObject *value = PyTuple_CheckExact(item) && PyTuple_GET_SIZE(item) > 1
        ? Py_NewRef(PyTuple_GET_ITEM(item, 1)) : element_of(item, 1);
    Py_DECREF(item);
    return value;
}

static int
Tree_contains(PyObject *self, PyObject *key)
{
    PyObject *item;
    int found = find_in_tree(self, key, &item);
    if (found > 0) {
        Py_DECREF(item);
    }
    return found;
}

/* Have the census, if there is one, count an item that was added. */
static int
note_added(PyObject *tree, PyObject *made)
{
    Py_ssize_t offset = tree_layout_of(Py_TYPE(tree))->census;
    PyObject *census = offset == 0 ? PyObject_GetAttr(tree, str_census)
                                   : Py_XNewRef(*(PyObject **)((char *)tree + offset));
    if (census == NULL) { /* a tree that was loaded, not made */
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_AttributeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    int result = 0;
    if (census != Py_None) {
        PyObject *noted = PyObject_CallMethodOneArg(census, str_note_added, made);
        result = noted == NULL ? -1 : 0;
        Py_XDECREF(noted);
    }
    Py_DECREF(census);
    return result;
}

/* Give (key, value). */
static PyObject *
make_item(PyObject *key, PyObject *value)
{
    PyObject *item = PyTuple_Pack(2, key, value);
    if (item != NULL && !PyObject_IS_GC(key) && !PyObject_IS_GC(value)) {
        PyObject_GC_UnTrack(item); /* the collector would do so, after a look at each */
    }
    return item;
}

static int
add_to_tree(PyObject *self, PyObject *key, PyObject *value)
{
    PyObject *root = root_of(self);
    PyObject *item = root == NULL ? NULL : make_item(key, value);
    PyObject *made = item == NULL ? NULL : put_into(root, key, item);
    int result = made == NULL ? -1 : made == Py_None ? 0 : note_added(self, made);
    Py_XDECREF(made);
    Py_XDECREF(item);
    Py_XDECREF(root);
    return result;
}

static int
Tree_ass_subscript(PyObject *self, PyObject *key, PyObject *value)
{
    if (value != NULL && tree_layout_of(Py_TYPE(self))->adds_in_c) {
        return add_to_tree(self, key, value);
    }
    PyObject *result = value == NULL ? PyObject_CallMethodOneArg(self, str_remove, key)
                                     : PyObject_CallMethodObjArgs(self, str_add, key, value, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static PyObject *
Tree_add(PyObject *self, PyObject *args, PyObject *kwds)
{
    static char *names[] = {"key", "value", NULL};
    PyObject *key, *value = Py_True;
    if (!PyArg_ParseTupleAndKeywords(args, kwds, "O|O:add", names, &key, &value)
        || add_to_tree(self, key, value) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMappingMethods Tree_mapping = {
    .mp_subscript = Tree_subscript,
    .mp_ass_subscript = Tree_ass_subscript,
};

static PySequenceMethods Tree_sequence = {.sq_contains = Tree_contains};

static PyMethodDef Tree_methods[] = {
    {"add", (PyCFunction)(void (*)(void))Tree_add, METH_VARARGS | METH_KEYWORDS,
     "add($self, /, key, value=True)\n--\n\n"
     "Set the value of `key`: by default True, to use the tree as a sorted set."},
    {NULL},
};

static PyTypeObject TreeBaseType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "durus._speedups.TreeBase",
    .tp_doc = "The operators of a BTree, on the node in its attribute `root`.",
    .tp_basicsize = sizeof(PyObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_as_mapping = &Tree_mapping,
    .tp_as_sequence = &Tree_sequence,
    .tp_methods = Tree_methods,
};

/* -- what the module gets -------------------------------------------------------------------------- */

static PyMethodDef btree_functions[] = {
    {"find_item", (PyCFunction)(void (*)(void))find_item, METH_FASTCALL,
     "find_item(root, key)\n\nGive the item with `key`, or None."},
    {"find_holder", (PyCFunction)(void (*)(void))find_holder, METH_FASTCALL,
     "find_holder(root, key)\n\nGive the node that holds `key`, and where in its items, or None."},
    {"position_of", (PyCFunction)(void (*)(void))position_of, METH_FASTCALL,
     "position_of(items, key)\n\nGive the position of the first item whose key is not less than `key`."},
    {"put", (PyCFunction)(void (*)(void))put, METH_FASTCALL,
     "put(root, item)\n\nAdd an item, or replace the one with the same key.\nGive the nodes that were"
     " made, often none; None if another item was replaced."},
    {"ascending", (PyCFunction)(void (*)(void))ascending, METH_FASTCALL,
     "ascending(root, part=None, start=None, end=None)\n\nIterate over the items of a tree."},
    {"descending", (PyCFunction)(void (*)(void))descending, METH_FASTCALL,
     "descending(root, part=None, start=None, end=None)\n\nIterate over the items from the last on."},
    {NULL},
};

static int
add_btree(PyObject *module)
{
    str_items = PyUnicode_InternFromString("items");
    str_nodes = PyUnicode_InternFromString("nodes");
    str_minimum_degree = PyUnicode_InternFromString("minimum_degree");
    str_keys = PyUnicode_InternFromString("_p_keys");
    str_root = PyUnicode_InternFromString("root");
    str_census = PyUnicode_InternFromString("_p_census");
    str_add = PyUnicode_InternFromString("add");
    str_remove = PyUnicode_InternFromString("_remove");
    str_note_added = PyUnicode_InternFromString("note_added");
    zero = PyLong_FromLong(0);
    if (PyErr_Occurred() || PyType_Ready(&WalkType) < 0 || PyType_Ready(&KeyTableType) < 0 || PyType_Ready(&TreeBaseType) < 0
        || PyModule_AddObjectRef(module, "TreeBase", (PyObject *)&TreeBaseType) < 0) {
        return -1;
    }
    own_add = PyDict_GetItemString(TreeBaseType.tp_dict, "add");
    return PyModule_AddFunctions(module, btree_functions);
}
