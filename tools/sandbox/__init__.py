"""A sandbox for bash commands: files in memory, no network, limits on all that a command can use.

    host                      supervisor.py, in bubblewrap's namespaces     each command, in namespaces of its own
    Sandbox.run  -- pipe -->  counts, watches, kills, keeps /repo      -->  bwrap ... bash -c command

A command sees neither the supervisor nor anything of another command but the files in /repo.
"""

from length_gen.tools.sandbox.bubblewrap import FOLDER, check_bubblewrap
from length_gen.tools.sandbox.sandbox import Limits, Result, Sandbox, SandboxError, of_thread

__all__ = ["FOLDER", "Limits", "Result", "Sandbox", "SandboxError", "check_bubblewrap", "of_thread"]
