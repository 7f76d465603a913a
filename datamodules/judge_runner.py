"""Runs inside the judge's sandbox: each folder's main.py, as `python3 main.py` would, but with one start of Python.

Arguments: the folders. Ends with the status of the first program that does not end well.
"""

import builtins
import os
import sys

builtins.exit = builtins.quit = sys.exit  # which Python's `site` defines, and is not started here
own, root = set(sys.modules), os.getcwd()

for folder in sys.argv[1:]:
    os.chdir(os.path.join(root, folder))
    for name in set(sys.modules) - own:
        del sys.modules[name]
    sys.argv, sys.path[0] = ["main.py"], os.getcwd()
    main = sys.modules["__main__"] = type(sys)("__main__")
    main.__file__ = "main.py"
    with open("main.py", "rb") as file:
        code = compile(file.read(), "main.py", "exec")
    try:
        exec(code, vars(main))
    except SystemExit as end:
        if end.code:
            raise
