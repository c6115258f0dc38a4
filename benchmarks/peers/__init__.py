"""One adapter a peer, the loops that all of them run, and the process that runs them.

What is here runs in the virtual environment of each peer, so it imports nothing but the standard
library and, in an adapter, that peer.
"""
