"""What a peer is measured by: no store of objects, but the least that one has to do.

Each does in its own way what the loop of that name does for the peers; they share the lines where
what they do is the same.
"""
