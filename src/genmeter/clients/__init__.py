"""Records the calls of vendors' client objects: ``monitor.watch(client)``.

``watching`` has what is public: which clients are watched, by which monitor. ``_stainless`` and
``_google`` know the two kinds of clients, ``_patches`` replaces methods of their classes, ``_registry``
knows whose calls are recorded, ``_calls`` begins and ends a call, and ``_bodies`` reads responses that
the caller reads as bytes.
"""

from genmeter.clients.watching import install, uninstall, unwatch, watch

__all__ = ["install", "uninstall", "unwatch", "watch"]
