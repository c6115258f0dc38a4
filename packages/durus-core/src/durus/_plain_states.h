#ifndef DURUS_PLAIN_STATES_H
#define DURUS_PLAIN_STATES_H

#include <Python.h>

/* Add what is in _plain_states.c to the module. */
int add_plain_states(PyObject *module);

#endif
