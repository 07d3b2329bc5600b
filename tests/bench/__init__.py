"""Time nets side by side with other libraries: ``python tests/bench --against torch``.

``nets`` has the nets as plain data, ``libraries/`` how each library writes them, ``worker`` the
process that one library runs in, ``race`` the turns, ``report`` the tables.  ``calls`` counts the
Python calls of a forward and a backward pass.
"""
