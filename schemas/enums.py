"""The closed vocabularies of text columns. A reason is a word, never a boolean; words are added, never re-used."""

from enum import StrEnum


class Split(StrEnum):
    TRAIN = "train"
    HELDOUT = "heldout"


class FinishReason(StrEnum):
    STOP = "stop"  # the model ended its answer
    LENGTH = "length"  # cut at max_response_tokens or at the model's context
    ABORT = "abort"  # the engine gave up on the request
    PROMPT_TOO_LONG = "prompt_too_long"  # never generated: the prompt leaves no room in the model's context
    UNKNOWN = "unknown"  # imported from a file that does not say


class Verdict(StrEnum):
    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"  # nothing in the response reads as an answer
    BAD_GOLD = "bad_gold"  # the gold answer itself does not parse: no judgement
    TIMEOUT = "timeout"  # the check was killed at its deadline: no judgement
    CRASHED = "crashed"  # the check died: no judgement


class Source(StrEnum):
    FRESH = "fresh"  # the update on the iteration's new batch took it
    REPLAY = "replay"  # drawn from the replay window by the draw rule


class Precision(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"  # matrix products; weights, sums and the optimizer's state are float32 all the same


class Batching(StrEnum):
    PACKED = "packed"  # end to end, without padding
    PADDED = "padded"  # side by side, by length


class Imported(StrEnum):
    PROMPTS = "prompts"
    ROLLOUTS = "rollouts"
    ARCHIVE = "archive"  # the rollouts of another archive
