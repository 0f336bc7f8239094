"""Jobs on any `concurrent.futures.Executor`: results in order, and what was lost with a worker is done again."""

import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from typing import Any

from keras_reg._validation import received

TRIES = 4


def check_executor(executor: Any) -> None:
    if not isinstance(executor, Executor):
        raise TypeError(
            f"Argument `executor` must be a `concurrent.futures.Executor` or None (of dask: `client.get_executor()`). "
            f"{received(executor, 'executor')}"
        )
    context = getattr(executor, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "Argument `executor` must not fork this process, in which the backend has threads: make it with "
            "`ProcessPoolExecutor(n, mp_context=multiprocessing.get_context('spawn'))`. Received: an executor that forks"
        )


def run_all(executor: Any, function: Callable, jobs: Iterable[Any], done: Callable[[Any, Any], None]) -> list[Any]:
    """`[function(job) for job in jobs]`, at the same time.

    What `function` itself raises is raised here. Whatever else goes wrong is the worker's: the job is handed out again, up to three times.

    Args:
        executor: Where to.
        function: Of a module, as it travels by its name.
        jobs: What travels to it.
        done: Called with each job and its result as soon as it is there.
    """
    jobs = list(jobs)
    results: list[Any] = [None] * len(jobs)
    tries = [0] * len(jobs)
    pool = _Pool(executor)
    running: dict[Future, int] = {}
    try:
        for index, job in enumerate(jobs):
            running[pool.submit(function, job)] = index
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                index = running.pop(future)
                try:
                    results[index], failure = future.result()
                except Exception as lost:
                    tries[index] += 1
                    if tries[index] == TRIES:
                        raise RuntimeError(f"The fit of {jobs[index].name!r} was lost with its worker {TRIES} times.") from lost
                    running[pool.submit(function, jobs[index])] = index
                    continue
                if failure is not None:
                    raise RuntimeError(f"The fit of {jobs[index].name!r} failed in its worker:\n{failure}")
                done(jobs[index], results[index])
    finally:
        for future in running:
            future.cancel()
        pool.close()
    return results


def guarded(function: Callable, job: Any) -> tuple[Any, str | None]:
    """The result, or else what was raised, as text: an exception of a class that this side lacks would not arrive."""
    try:
        return function(job), None
    except Exception:
        return None, traceback.format_exc()


class _Pool:
    """An executor that is replaced by one alike where the death of a process has ended it, as it ends a pool of processes."""

    def __init__(self, executor: Any):
        self.given = self.now = executor

    def submit(self, function: Callable, job: Any) -> Future:
        try:
            return self.now.submit(guarded, function, job)
        except BrokenExecutor:
            if not isinstance(self.given, ProcessPoolExecutor):
                raise
        self.close()
        given = self.given
        self.now = ProcessPoolExecutor(given._max_workers, given._mp_context, given._initializer, given._initargs)
        return self.now.submit(guarded, function, job)

    def close(self) -> None:
        if self.now is not self.given:
            self.now.shutdown(wait=False, cancel_futures=True)
