#ifndef DURUS_PLAIN_STATES_H
#define DURUS_PLAIN_STATES_H

#include <Python.h>

/* Give the state in a record's data that promises a proof and holds only what is usual: what an
   Unpickler would give, or NotImplemented. */
PyObject *read_plain(const unsigned char *data, Py_ssize_t length, PyObject *find_class,
                     PyObject *find_object);

/* Add what is in _plain_states.c to the module. */
int add_plain_states(PyObject *module);

#endif
