"""Worker processes that read files or draw samples."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """In a worker: end when the process that started it is gone, even a killed one."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
