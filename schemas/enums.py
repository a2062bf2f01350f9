"""The words that text columns may hold, each with its meaning. Words are added later, never given another meaning."""

from enum import StrEnum
from typing import Self


class Word(StrEnum):
    """A word of a text column; `doc` is its meaning."""

    doc: str

    def __new__(cls, word: str, doc: str = "") -> Self:
        self = str.__new__(cls, word)
        self._value_, self.doc = word, doc
        return self


class Split(Word):
    TRAIN = "train", "trained on"
    HELDOUT = "heldout", "only for evaluation"


class FinishReason(Word):
    STOP = "stop", "the model ended its answer"
    LENGTH = "length", "cut at max_response_tokens or at the end of the model's context"
    ABORT = "abort", "the engine gave up on the request"
    PROMPT_TOO_LONG = "prompt_too_long", "never generated: the prompt leaves no room in the model's context"
    UNKNOWN = "unknown", "imported from a file that does not say"


class Verdict(Word):
    CORRECT = "correct", "the answer is right"
    WRONG = "wrong", "the answer is not right"
    NO_ANSWER = "no_answer", "no answer was found in the response"
    BAD_GOLD = "bad_gold", "not judged: the gold answer itself cannot be read"
    TIMEOUT = "timeout", "not judged: the check took too long and was killed"
    CRASHED = "crashed", "not judged: the check crashed"


class Source(Word):
    FRESH = "fresh", "taken by the update on the iteration's new rollouts"
    REPLAY = "replay", "drawn from the replay window by the draw rule"


class Precision(Word):
    FLOAT32 = "float32", "everything in float32"
    BFLOAT16 = "bfloat16", "matrix products in bfloat16; weights, sums and the optimizer's state in float32"


class Batching(Word):
    PACKED = "packed", "end to end, without padding"
    PADDED = "padded", "side by side with others of about the same length"


class Imported(Word):
    PROMPTS = "prompts", "questions"
    ROLLOUTS = "rollouts", "rollouts that were made elsewhere"
    ARCHIVE = "archive", "the rollouts of another archive"
