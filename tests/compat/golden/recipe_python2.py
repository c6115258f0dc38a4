# How dfs20-python2.durus was made, with Python 2.7 and Durus 4.2, the last that runs there:
#
#     python2.7 -m pip install --target durus42 Durus==4.2
#     PYTHONPATH=durus42 python2.7 recipe_python2.py
#
# Its index record holds the oids as text, and so do the references inside the states. Durus 4.3
# opens such a file only if every byte of every oid is ASCII, and its Connection cannot follow the
# references.

import os

from durus.btree import BNode4, BTree
from durus.connection import Connection
from durus.file_storage2 import FileStorage2
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList

storage = FileStorage2("dfs20-python2.durus")
connection = Connection(storage)
root = connection.get_root()
root["number"] = 1
root["dict"] = PersistentDict(one=1)
root["list"] = PersistentList([PersistentDict(number=number) for number in range(140)])
root["tree"] = BTree(BNode4)
connection.commit()
connection.pack()
root["tree"]["key"] = "value"
connection.commit()
storage.close()
os.unlink("dfs20-python2.durus.prepack")
