"""Batches of few static shapes, loaded by Grain."""

import itertools
import os
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from .audio import resample
from .corpus import Corpus
from .plan import Chosen, Plan, Shape
from .settings import ExplainedError, Settings
from .text import Tokenizer, normalise

BUFFERED = 2  # batches that wait for their turn in each process
SHARED_MEMORY = Path("/dev/shm")


class Batch(NamedTuple):
    """N utterances, padded with zeros. Rows with a samples_lengths of 0 are padding."""

    audio: np.ndarray  # (N, S) float32
    samples_lengths: np.ndarray  # (N,) int32
    labels: np.ndarray  # (N, U - 1) int32
    labels_lengths: np.ndarray  # (N,) int32


class Loader:
    """Iterates over the batches of a corpus: endlessly when training, once a `for` otherwise.

    Attributes:
        shapes: those that batches have, all processes together.
        padding: the share of an epoch's cells, rows times samples, that is padding.
        left_out: how many utterances are too long to be trained on.
    """

    shapes: list[Shape]
    padding: float
    left_out: int

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        settings: Settings,
        *,
        training: bool,
        divisor: int = 1,
        processes: tuple[int, int] = (0, 1),
    ) -> None:
        """Plans the batches.

        Args:
            divisor: divides N: the number of devices, all processes together.
            processes: (index, count): this process loads its part of each batch's rows.
        """
        if divisor % processes[1]:
            raise ExplainedError(f"{processes[1]} processes do not divide {divisor} devices.")
        labels = [np.array(tokenizer.encode(text), np.int32) for text in corpus.texts]
        samples = np.ceil(np.asarray(corpus.seconds) * settings.sample_rate).astype(np.int64)
        labels_lengths = np.array([len(row) for row in labels])
        plan = Plan(samples, labels_lengths, settings, training, divisor)
        self.shapes, self.padding, self.left_out = plan.shapes, plan.padding(), plan.left_out
        if not training:  # an epoch is all there is: nobody compiles for what it does not have
            self.shapes = [plan.shapes[i] for i in sorted({b.bucket for b in plan.epoch(0)})]
        self._source = _Batches(corpus, labels, plan, settings.sample_rate, training, processes)
        self._training = training
        most = max(settings.loader_workers, os.cpu_count() or 1)
        self._workers = min(settings.loader_workers * (divisor // processes[1]), most)
        self._next, self._iterator = 0, None
        self._first: Future[Batch] | None = None

    def __iter__(self) -> "Loader":
        if not self._training:
            self.set_state({"next": 0})
        return self

    def __next__(self) -> Batch:
        """This process's rows of the next batch."""
        first, self._first = self._first, None
        batch = next(self._started()) if first is None else first.result()
        self._next += 1
        return batch

    def texts(self) -> list[str]:
        """What is said in the rows of the newest batch, normalised; there is none for padding.

        Labels would not do: letters that the tokenizer does not know are lost in them.
        """
        return self._source.texts(self._next - 1)

    def state(self) -> dict[str, Any]:
        """What `set_state` of another loader takes to go on with the next batch.

        It is Grain's state of an iterator over numbered batches. Where Grain loads with processes,
        its own state has that of each; a number alone suits any number of them.
        """
        return {"next": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        self.close()
        self._next = int(state["next"])

    def close(self) -> None:
        """Ends the processes that load; the next batch starts them again."""
        if self._first is not None:
            self._first.exception()  # waits: two threads never use the iterator
            self._first = None
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None

    def prefetch(self) -> None:
        """Begins to load: processes take seconds to start, in which others may compile."""
        if self._first is None:
            thread = ThreadPoolExecutor(1)
            self._first = thread.submit(next, self._started())
            thread.shutdown(wait=False)

    def _started(self) -> grain.DatasetIterator:
        if self._iterator is None:
            self._iterator = self._start()
        return self._iterator

    def _start(self) -> grain.DatasetIterator:
        batches = grain.MapDataset.source(self._source).slice(slice(self._next, None))
        if not self._training or not self._workers:
            # Decoding and resampling leave Python to other threads.
            threads = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
            return iter(batches.to_iter_dataset(threads))
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain asks for flags that only absl's own main reads
        alone = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        self._check_shared_memory()
        workers = grain.MultiprocessingOptions(
            num_workers=self._workers, per_worker_buffer_size=BUFFERED
        )
        return iter(batches.to_iter_dataset(alone).mp_prefetch(workers))

    def _check_shared_memory(self) -> None:
        """Processes hand batches over in shared memory, and die without a word where it ends."""
        cells = max(rows * samples for rows, samples, _ in self.shapes) // self._source.processes
        needed = self._workers * (BUFFERED + 1) * 4 * cells
        free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else needed
        if free < needed:
            raise ExplainedError(
                f"{self._workers} processes that load need {needed / 1e6:,.0f} MB in "
                f"{SHARED_MEMORY}, where {free / 1e6:,.0f} are free: start the container with "
                "a larger --shm-size, or load with fewer --loader-workers (0: in threads)."
            )


class _Batches:
    """The batches by number, as Grain wants its sources."""

    def __init__(
        self,
        corpus: Corpus,
        labels: list[np.ndarray],
        plan: Plan,
        sample_rate: int,
        training: bool,
        processes: tuple[int, int],
    ) -> None:
        self._corpus, self._labels, self._plan = corpus, labels, plan
        self._rate, self._training = sample_rate, training
        self._process, self.processes = processes

    def __len__(self) -> int:
        return sys.maxsize if self._training else len(self._plan.epoch(0))

    def _mine(self, number: int) -> tuple[Chosen, slice]:
        """A batch, and which of its rows this process loads."""
        chosen = self._plan[number]
        rows = self._plan.shapes[chosen.bucket].rows // self.processes
        return chosen, slice(self._process * rows, (self._process + 1) * rows)

    def texts(self, number: int) -> list[str]:
        chosen, mine = self._mine(number)
        return [normalise(self._corpus.texts[n]) for n in chosen.utterances[mine]]

    def __getitem__(self, number: int) -> Batch:
        chosen, mine = self._mine(number)
        shape, rows = self._plan.shapes[chosen.bucket], mine.stop - mine.start
        batch = Batch(
            audio=np.zeros((rows, shape.samples), np.float32),
            samples_lengths=np.zeros(rows, np.int32),
            labels=np.zeros((rows, shape.labels), np.int32),
            labels_lengths=np.zeros(rows, np.int32),
        )
        for row, utterance, rate in zip(
            itertools.count(), chosen.utterances[mine], chosen.rates[mine], strict=False
        ):
            recorded = self._corpus[utterance].audio
            audio = resample(recorded, int(rate), self._rate)[: shape.samples]
            labels = self._labels[utterance]
            batch.audio[row, : len(audio)] = audio
            batch.samples_lengths[row] = len(audio)
            batch.labels[row, : len(labels)] = labels
            batch.labels_lengths[row] = len(labels)
        return batch
