"""A tokenizer by name: makes token ids of imported text, and text of imported token ids."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.exchange.formats.values import Array
from reval.weights import tokenizer_digest
from schemas import UserError

FILES = [
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "config.json",
]


class Tokenizer:
    """A Hugging Face tokenizer. Guarantees the same ids for the same text, without added special tokens."""

    def __init__(self, name: str) -> None:
        """Loads the tokenizer from a folder, or from the hub, and never runs code that comes with it.

        Raises:
            UserError: the name is neither, or the tokenizer needs code of its own.
        """
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        self.name = name
        folder = Path(name).expanduser()
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            try:
                folder = Path(snapshot_download(name, allow_patterns=FILES))
            except Exception as error:  # the hub's client raises many kinds of errors; all mean the same here
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise UserError(f"--tokenizer {name!r} is not a folder, and the hub does not give it: {reason}") from None
        # Follow tokenizer.json: AutoTokenizer of transformers 5.19 takes the pre-tokenizer from a class that it guesses
        # from config.json, and loses the spaces of a character tokenizer beside a Qwen2 model.
        kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
        try:
            self._tokenizer: Any = kind.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # a broken folder can raise any kind of error
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"--tokenizer {name}: it cannot be read ({reason})") from None
        # SHA-256 over its files, as in policies.tokenizer_digest.
        self.digest = tokenizer_digest(folder)
        self.size = len(self._tokenizer)

    def encode(self, texts: list[str]) -> list[Array]:
        """Token ids of each text; no special token is added, so an answer does not end in end-of-sequence."""
        if not texts:
            return []
        found = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [np.asarray(ids, np.int32) for ids in found]

    def prompt(self, problem: str, chat: list[dict[str, str]] | None) -> str:
        """A prompt as text: chat messages in the tokenizer's chat template if it has one, else the problem unchanged."""
        if chat is None or not self._tokenizer.chat_template:
            return problem
        try:
            return str(self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # a template is a program and can raise any error
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"--tokenizer {self.name}: its chat template cannot write a prompt ({reason})") from None

    def decode(self, ids: list[Array]) -> list[str]:
        """The text of each list of ids, without special tokens."""
        texts: list[str] = self._tokenizer.batch_decode([each.tolist() for each in ids], skip_special_tokens=True)
        return texts
