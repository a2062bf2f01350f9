"""The processes that a run owns: its engine, its trainers and its verifiers."""

import os
from pathlib import Path

from pipeline.archive.store import Store
from pipeline.children.pool import Pool
from pipeline.children.team import Team
from pipeline.engines.base import EngineProcess
from pipeline.recipes.config import Config, Runtime


def n_gpus(runtime: Runtime) -> int:
    """The number of GPUs that can be used."""
    return 0 if runtime.device == "cpu" else len(list(Path("/dev").glob("nvidia[0-9]*")))


def n_trainers(runtime: Runtime) -> int:
    """The number of processes that train together."""
    return runtime.trainer_processes or n_gpus(runtime) or 1


class Processes:
    """The engine, the trainer and the verifiers of a run, each started when first asked for.

    On a CPU they all stay alive together. On a GPU the engine and the trainer take turns: nothing else can safely use
    vLLM's memory while vLLM runs, and freeing it inside a running process leaks memory.
    """

    def __init__(self, config: Config, store: Store, *, verbose: bool = False) -> None:
        self._runtime, self._score, self._store = config.runtime, config.score, store
        self._verbose = verbose
        self._engine: EngineProcess | None = None
        self._loaded: str | None = None
        # The policy for which engine and trainer were compared since the engine loaded its weights.
        self.checked: str | None = None
        # The name under which they write logs.
        self.who = "reval"
        self._trainer: Team | None = None
        self._pools: dict[str, Pool] = {}

    def engine(self, location: str) -> EngineProcess:
        """The engine, holding the weights at `location`."""
        if self._take_turns and self._trainer is not None:
            self._trainer.close()
            self._trainer = None
        if self._engine is None:
            runtime = self._runtime
            self._engine = EngineProcess(
                runtime.engine,
                log=self._log("engine"),
                device=runtime.device,
                batch=runtime.engine_batch,
                gpu_memory_share=runtime.gpu_memory_share,
            )
        if self._loaded != location:
            self._loaded = None
            self._engine.load(location)
            self._loaded = location
        return self._engine

    def trainer(self) -> Team:
        if self._take_turns and self._engine is not None:
            self._engine.close()
            self._engine, self._loaded = None, None
        if self._trainer is None:
            self._trainer = Team("pipeline.runs.trainer_child", n_trainers(self._runtime), log=self._log("trainer"))
        return self._trainer

    def verifiers(self, name: str) -> Pool:
        """The worker processes of the verifier of this name."""
        if name not in self._pools:
            n_workers = self._runtime.verifier_workers or len(os.sched_getaffinity(0))
            log = self._store.layout.log(self.who, "verifier")
            self._pools[name] = Pool("pipeline.verifiers.child", n_workers, self._score.max_seconds, log, name=name)
        return self._pools[name]

    @property
    def _take_turns(self) -> bool:
        return n_gpus(self._runtime) > 0

    def _log(self, name: str) -> Path | None:
        return None if self._verbose else self._store.layout.log(self.who, name)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        if self._trainer is not None:
            self._trainer.close()
        for pool in self._pools.values():
            pool.close()
