"""From a trained model to text, and how often that is wrong."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import jax
import jiwer
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .batches import Loader
from .checkpoint import Checkpoints
from .decoding import Found, search
from .model import Transducer
from .padding import padded
from .programs import compile_together, jit
from .settings import Settings
from .text import Tokenizer

ROOM_SECONDS = 4  # audio is padded to a multiple of this, so that few lengths are compiled
MOST_ROWS = 16  # recordings at once
SHOWN = 10  # sentences of an evaluation


class Hypothesis(NamedTuple):
    """The best reading of a recording."""

    text: str
    labels: list[int]
    frames: list[int]  # of each label, counted in encoder frames
    log_prob: float  # nats; of the path if greedy, of all kept paths if by a beam


class Evaluation(NamedTuple):
    """How a model does on held-out utterances."""

    word_error_rate: float
    samples: list[list[str]]  # [reference, hypothesis]


class Recognizer:
    """A model that hears: `Recognizer.load(run_dir).transcribe([audio])`.

    Args:
        settings: of the run.
        tokenizer: of the run.
        model: its network.
        devices: over which the rows of a batch are split; one of them by default.
    """

    def __init__(
        self,
        settings: Settings,
        tokenizer: Tokenizer,
        model: Transducer,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        self.settings, self.tokenizer, self.model = settings, tokenizer, model
        self.mesh = Mesh(np.asarray(devices or jax.local_devices()[:1]), ("data",))
        self.frame_seconds = settings.hop * settings.subsampling / settings.sample_rate
        self._graph, _ = nnx.split(model)
        self.programs: dict[tuple[int, int, int], jax.stages.Compiled] = {}
        self._encode = jit(lambda params, *audio: nnx.merge(self._graph, params).encode(*audio))

    @classmethod
    def load(cls, run_dir: Path | str) -> "Recognizer":
        """The best model of a run, its weights averaged."""
        run_dir = Path(run_dir)
        settings = Settings.from_json((run_dir / "settings.json").read_text())
        tokenizer = Tokenizer.load(run_dir / "tokenizer.model")
        model = nnx.eval_shape(
            lambda: Transducer(settings, tokenizer.size, rngs=nnx.Rngs(settings.seed))
        )
        graph, shapes = nnx.split(model)
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), shapes)
        with closing(Checkpoints(run_dir)) as checkpoints:
            params = checkpoints.best_average(like)
        return cls(settings, tokenizer, nnx.merge(graph, params))

    def use(self, params: nnx.State) -> None:
        """Takes other weights: arrays that are whole on each device, of this process or of all."""
        everywhere = NamedSharding(self.mesh, P())
        nnx.update(
            self.model,
            jax.tree.map(lambda x: jax.device_put(x.addressable_data(0), everywhere), params),
        )

    def lowered(
        self, shapes: Iterable[tuple[int, int]], *beams: int
    ) -> Iterator[tuple[tuple[int, int, int], jax.stages.Lowered]]:
        """What `programs` that are not there yet are to be compiled from.

        They are searches of batches of so many (rows, samples) by so many hypotheses.
        """
        new = {(*shape, beam) for shape in shapes for beam in beams} - self.programs.keys()
        return ((shape, self._lower(*shape)) for shape in new)

    def _lower(self, rows: int, samples: int, beam: int) -> jax.stages.Lowered:
        """Each device searches its rows: none waits for an utterance of another's."""

        def of_device(params, audio, samples_lengths):
            return search(nnx.merge(self._graph, params), audio, samples_lengths, beam)

        specs = P(), P("data"), P("data")
        run = jax.shard_map(
            of_device, mesh=self.mesh, in_specs=specs, out_specs=P("data"), check_vma=False
        )
        shardings = tuple(NamedSharding(self.mesh, spec) for spec in specs)
        return jax.jit(run, in_shardings=shardings).lower(
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nnx.state(self.model)),
            jax.ShapeDtypeStruct((rows, samples), np.float32),
            jax.ShapeDtypeStruct((rows,), np.int32),
        )

    def search(self, audio: np.ndarray, samples_lengths: np.ndarray, beam: int = 1) -> Found:
        """NumPy's arrays (N, samples) and (N,) -> the same of what was found."""
        (new,) = compile_together(self.lowered([audio.shape], beam))
        self.programs |= new
        program = self.programs[*audio.shape, beam]
        split = NamedSharding(self.mesh, P("data"))
        placed = jax.device_put((audio, samples_lengths), split)
        return Found(*map(np.asarray, program(nnx.state(self.model), *placed)))

    def encode(self, audios: Sequence[np.ndarray]) -> tuple[jax.Array, np.ndarray]:
        """Recordings (samples,) -> frames (N, T, E), padded, and how many each has (N,)."""
        arrays = self._padded(audios, len(audios))
        encoder, frames_lengths = self._encode(nnx.state(self.model), *arrays)
        return encoder, np.asarray(frames_lengths)

    def transcribe(self, audios: Sequence[np.ndarray], beam: int = 1) -> list[Hypothesis]:
        """Texts of recordings (samples,) at the settings' rate, float32 in [-1, 1]."""
        hypotheses = []
        for first in range(0, len(audios), MOST_ROWS):
            here = audios[first : first + MOST_ROWS]
            devices = self.mesh.size
            rows = devices * 2 ** (-(-len(here) // devices) - 1).bit_length()
            found = self.search(*self._padded(here, rows), beam)
            hypotheses += [self._hypothesis(found, n) for n in range(len(here))]
        return hypotheses

    def _padded(self, audios: Sequence[np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray]:
        room = ROOM_SECONDS * self.settings.sample_rate
        lengths = [len(audio) for audio in audios] + [0] * (rows - len(audios))
        return padded(audios, np.float32, room=room, count=rows), np.asarray(lengths, np.int32)

    def _hypothesis(self, found: Found, n: int) -> Hypothesis:
        length = int(found.labels_lengths[n])
        labels, frames = (x[n, :length].tolist() for x in (found.labels, found.label_frames))
        return Hypothesis(self.tokenizer.decode(labels), labels, frames, float(found.log_probs[n]))


def evaluate(recognizer: Recognizer, loader: Loader, beam: int = 1) -> Evaluation:
    """The word error rate over the batches of all processes; sentences are of this one."""
    decode, references, hypotheses = recognizer.tokenizer.decode, [], []
    for batch in loader:
        found = recognizer.search(batch.audio, batch.samples_lengths, beam)
        for n, text in enumerate(loader.texts()):
            references.append(text)
            hypotheses.append(decode(found.labels[n, : found.labels_lengths[n]].tolist()))
    words = jiwer.process_words(references, hypotheses) if references else None
    errors = words.substitutions + words.deletions + words.insertions if words else 0
    total = sum(len(reference.split()) for reference in references)
    if jax.process_count() > 1:
        counts = multihost_utils.process_allgather(np.array([errors, total]))
        errors, total = counts.sum(0).tolist()
    samples = [list(pair) for pair in zip(references[:SHOWN], hypotheses[:SHOWN])]
    return Evaluation(errors / max(total, 1), samples)
