#ifndef DURUS_BTREE_H
#define DURUS_BTREE_H

#include <Python.h>

/* Add what is in _btree.c to the module. */
int add_btree(PyObject *module);

#endif
