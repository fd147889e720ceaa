"""The parent watch: a replica whose raylet is gone ends itself, and with it its engine.

Ray's own check did not end a worker within 72 seconds of its raylet's `kill -9`; meanwhile its
engine holds the GPU. A thread, not a task: it must work when the event loop is stuck.
"""

import contextlib
import os
import threading

_LOOK_S = 0.5
_EX_UNAVAILABLE = 69


class ParentWatch:
    """Ends this process, at once and without clean-up, when its parent changes.

    The engine's keeper sees that this process is gone and ends the engine's whole family.
    """

    def __init__(self, look_s: float = _LOOK_S) -> None:
        self._parent = os.getppid()
        self._look_s = look_s
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="parent-watch", daemon=True).start()

    def stop(self) -> None:
        """End the watch: from here on the parent may go."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._look_s):
            if os.getppid() != self._parent:
                # No logging: its lock may be what the rest of this process is stuck on.
                with contextlib.suppress(OSError):
                    os.write(2, b"rayllama: the parent process is gone, this replica ends\n")
                os._exit(_EX_UNAVAILABLE)
