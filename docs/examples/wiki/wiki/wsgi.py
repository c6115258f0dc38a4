"""`wiki.wsgi:application`, for a WSGI server in earnest.

The environment variable WIKI_DATABASE has the URL of the database.
"""

from __future__ import annotations

import os

from durus.database import Database
from wiki.app import Application

application = Application(Database(os.environ["WIKI_DATABASE"]))
