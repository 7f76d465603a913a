"""What commands are forked from (`processes.py`): imports all of the suite, also what it imports only when it needs it.

The garbage collector leaves what is there alone, which otherwise would be copied into every process as it looks at it.
"""

import gc
import importlib

for name in ("length_gen.lightning_modules.commands.main",  # not run.py, which imports it late
             "numba.np.ufunc.parallel", "numba.parfors.parfor", "rich.markdown", "PIL.PngImagePlugin"):
    importlib.import_module(name)
gc.freeze()
