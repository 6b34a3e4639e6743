"""Calls that something else observed: an instrumentation's span, a framework's hook, a watched client.

``model`` has such a call, ``blocks`` the block of ours that is open around it, ``merging`` adds to a block
what it was not given, and ``observer`` records each call once, however many observe it.
"""
