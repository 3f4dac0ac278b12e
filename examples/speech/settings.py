"""Every choice that matters, in one place: `preset("small", loss="tdt")`."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

POSITIVE = (
    *("train_sentences", "valid_sentences", "words", "max_seconds", "frames_per_batch"),
    *("buckets", "steps", "accumulate", "clip_norm", "learning_rate", "evaluate_every"),
    *("keep", "beam"),
)


class ExplainedError(ValueError):
    """What its message explains: the command line shows no traceback, which other errors keep."""


@dataclass(frozen=True)
class Settings:
    """What is trained on what, and why so. Stored beside checkpoints, as JSON.

    The values here are those of `small`; `preset` has the others.
    """

    # --- Data ---------------------------------------------------------------------------------
    # Where utterances come from; `corpus.load` has one line for each.
    data: Literal["espeak", "librispeech", "fsdd"] = "espeak"
    # The corpus's folder (or zip, for fsdd); espeak makes its own and needs none.
    path: str | None = None
    # Which parts of the corpus are trained on and held out: folders below `path`, several with "+"
    # between them ("train-clean-100+train-clean-360"). Only librispeech reads it.
    train: str = "train-clean-100"
    valid: str = "dev-clean"
    # Synthesised speech is kept here: making it takes longer than reading it a hundred times.
    cache: str = "~/.cache/jax_rnnt_speech"
    # Of everything drawn: sentences, order, speeds, masks, weights.
    seed: int = 0
    # How many sentences espeak says: enough that a word is heard in many voices, few enough that
    # speaking them takes two minutes of CPU time, which all cores share.
    train_sentences: int = 40_000
    valid_sentences: int = 1_000
    # Of how many of words.txt's 2,000 words they are, and how many a sentence has at least and at
    # most: short ones of few words are what a small model learns within minutes.
    words: int = 2_000
    sentence_words: tuple[int, int] = (4, 12)
    # Utterances that are longer are left out of training: one of them sets the memory of a batch.
    max_seconds: float = 17.0
    # Each utterance is played at one of these, drawn anew every epoch. Pitch changes with it, so
    # that it stands for other speakers, too.
    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)

    # --- Features -----------------------------------------------------------------------------
    # Every recording is brought to this rate; models of 8 kHz and of 16 kHz do not mix.
    sample_rate: int = 16_000
    # 80 mel bands, of windows of 25 ms every 10 ms (in samples): what every such model takes.
    bands: int = 80
    hop: int = 160
    window: int = 400
    # SpecAugment: how many spans of frames and of bands are set to the mean, and how long each may
    # be. Frames as a share of the utterance, so that short ones keep their words.
    time_masks: int = 5
    time_mask_share: float = 0.05
    band_masks: int = 2
    band_mask_width: int = 27

    # --- Batches ------------------------------------------------------------------------------
    # Feature frames of a batch over all devices, padding included: memory and time of a step are
    # proportional to it, so that every bucket costs the same. An H100 takes 31 of these steps a
    # second, and 13 of 160,000 frames (with an LSTM).
    frames_per_batch: int = 40_000
    # Static shapes at most: each is compiled once, and more of them pad less.
    buckets: int = 6
    # Processes that read, play at other speeds and pad, for each device, in all at most one a core:
    # eight keep up with an H100 (waiting 0.6 %), and did not with two (11 and 41 %). 0 does it in
    # threads of this process.
    loader_workers: int = 8

    # --- Text ---------------------------------------------------------------------------------
    # V, blank 0 and unknown 1 included; fewer where the texts have no more pieces.
    vocabulary: int = 512

    # --- Model --------------------------------------------------------------------------------
    # Feature frames of an encoder frame: 8 makes the encoder and the joint half as large as 4
    # does; 4 is for speech of more than about ten labels a second.
    subsampling: Literal[4, 8] = 8
    width: int = 176
    layers: int = 17
    heads: int = 4
    # In encoder frames; 9 suffices after subsampling by 8 (31 is usual after 4).
    conv_kernel: int = 9
    # "stateless" sees the last two labels alone: smaller, and a beam's hypotheses merge more often.
    # An LSTM's steps, one label after the other, take an H100 12 of 85 ms (160,000 frames).
    predictor: Literal["lstm", "stateless"] = "stateless"
    predictor_width: int = 320
    joint_width: int = 320
    # Of the encoder's and predictor's layers, and of the joint's activations.
    dropout: float = 0.1
    joint_dropout: float = 0.2
    # Products and activations; parameters, sums and the loss are float32.
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    # --- Loss ---------------------------------------------------------------------------------
    # "tdt" skips frames, and so decodes with fewer calls of the joint; "pruned" is k2's
    # approximation, for vocabularies of many thousands.
    loss: Literal["rnnt", "tdt", "pruned"] = "rnnt"
    # Frames that a tdt arc may advance by.
    durations: tuple[int, ...] = (0, 1, 2, 3, 4)
    # tdt's logit under-normalisation: each arc costs this, so that long durations are worth it.
    sigma: float = 0.05
    # Columns of a frame that the pruned loss's joint sees, and the steps after which its simple
    # loss has its final weight.
    prune_width: int = 5
    prune_warmup_steps: int = 2_000
    # FastEmit's weight of labels over blanks: they are written earlier, which streaming wants.
    fastemit: float = 0.005
    # Weight, in training, of a second loss, of a transducer without a predictor: the encoder learns
    # from it from the first step on, where the predictor alone would learn the texts first.
    encoder_weight: float = 0.5

    # --- Optimizer ----------------------------------------------------------------------------
    # 20 epochs of espeak's sentences, 9 of LibriSpeech's 100 hours.
    steps: int = 10_000
    warmup_steps: int = 500
    # The peak; a cosine ends at a hundredth of it.
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    # Gradients are scaled to this norm at most: the loss of a new model is in the hundreds.
    clip_norm: float = 1.0
    # Batches whose gradients are averaged for one update, where memory has no room for a larger.
    accumulate: int = 1
    # Of the running average of weights, which is what is evaluated and kept.
    average_decay: float = 0.999

    # --- Evaluation and checkpoints -----------------------------------------------------------
    # Steps between two evaluations, each of which may leave a checkpoint.
    evaluate_every: int = 1_000
    # Checkpoints of the lowest word error rates that stay, besides the newest.
    keep: int = 3
    # Hypotheses of the search at the end; during training it is greedy.
    beam: int = 4

    def __post_init__(self) -> None:
        for name in POSITIVE:
            if getattr(self, name) <= 0:
                raise ExplainedError(f"{name} must be positive, not {getattr(self, name)}.")
        if (
            len(self.sentence_words) != 2
            or not 0 < self.sentence_words[0] <= self.sentence_words[1]
        ):
            raise ExplainedError(
                f"sentence_words must be the least and the most, not {self.sentence_words}."
            )
        if not self.speeds or min(self.speeds) <= 0:
            raise ExplainedError(f"speeds must be positive, not {self.speeds}.")
        if self.width % self.heads:
            raise ExplainedError(f"{self.heads} heads do not divide a width of {self.width}.")
        if self.subsampling not in (4, 8):
            raise ExplainedError(f"subsampling must be 4 or 8, not {self.subsampling}.")

    def to_json(self) -> str:
        """As a JSON object, one field a line."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """The inverse of `to_json`."""
        stored: dict[str, Any] = json.loads(text)
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()})


PRESETS: dict[str, dict[str, Any]] = {
    # Two CPU cores, a few minutes: short sentences of few words, which it learns to recognise.
    "tiny": {
        "train_sentences": 3_000,
        "valid_sentences": 100,
        "words": 60,
        "sentence_words": (2, 5),
        "frames_per_batch": 6_000,
        "buckets": 2,
        "loader_workers": 0,
        "vocabulary": 64,
        "time_masks": 1,
        "band_masks": 1,
        "width": 64,
        "layers": 2,
        "heads": 2,
        "predictor_width": 64,
        "joint_width": 64,
        "dropout": 0.0,
        "joint_dropout": 0.0,
        "dtype": "float32",
        "steps": 1_500,
        "warmup_steps": 200,
        "learning_rate": 3e-3,
        "average_decay": 0.98,
        "evaluate_every": 250,
    },
    # About 13 M parameters: espeak, or LibriSpeech's 100 hours.
    "small": {},
    # About 32 M parameters, for corpora of hundreds of hours.
    "medium": {
        "frames_per_batch": 160_000,
        "vocabulary": 1024,
        "width": 256,
        "layers": 17,
        "predictor": "lstm",
        "predictor_width": 640,
        "joint_width": 640,
        "steps": 50_000,
        "warmup_steps": 5_000,
        "evaluate_every": 2_000,
        "average_decay": 0.9995,
    },
}


def preset(name: str, **changes: Any) -> Settings:
    """The settings of a preset, with changes by field name."""
    if name not in PRESETS:
        raise ExplainedError(f"There is no preset {name!r}: choose one of {', '.join(PRESETS)}.")
    return Settings(**{**PRESETS[name], **changes})
