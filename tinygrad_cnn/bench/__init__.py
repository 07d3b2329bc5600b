"""Side-by-side benchmarks: nets, single ops and the engine, against what else is installed.

``nets`` and ``cases`` say what is timed, as plain data; ``frameworks/`` says how each library does
it, a file a library; ``worker`` is the process that one library runs in, ``process`` its other end;
``race`` lets them take turns; ``run``, ``ops`` and ``accuracy`` hold the measurements, ``report``
the tables, ``targets`` what is to be reached.  ``profile`` tells where the time of one step goes.
The command line is ``cli``.
"""
