"""Files in the shapes that other people's tools write."""

import json
from pathlib import Path


def lines(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in rows))
    return path


def trace() -> dict:
    """A verifiers v1 trace of one turn, with the fields of TRACE_VERSION 1 that matter and some that do not."""

    def node(parent: int | None, role: str, content: str, ids: list[int], **more: object) -> dict:
        said = {"role": role, "content": content}
        return {"parent": parent, "message": said, "sampled": False, "token_ids": ids, "mask": [False] * len(ids), **more}

    sampled = {"sampled": True, "mask": [False, True, True], "logprobs": [-0.5, -0.25]}
    return {
        "version": 1,
        "id": "5f0c",
        "task": {"type": "MathTask", "data": {"idx": 3, "prompt": "2+2", "answer": "4"}, "key": None, "hash": "ab"},
        "agent": {"config": {"model": "Qwen/Qwen3-0.6B", "sampling": None}, "name": "agent", "trainable": True},
        "nodes": [
            node(None, "system", "Be brief.", [10]),
            node(0, "user", "2+2", [11, 12]),
            node(1, "assistant", "4", [13, 14, 15], **sampled),
        ],
        "calls": [
            {
                "node": 2,
                "model": "Qwen/Qwen3-0.6B",
                "sampling": {"temperature": 0.7, "max_tokens": 64},
                "finish_reason": "length",
                "error": None,
            }
        ],
        "rewards": {"correct": {"score": 1.0, "weight": 1.0}, "format": {"score": 0.5, "weight": 0.2}, "judge": None},
        "metrics": {"num_turns": 1.0},
        "info": {"kind": "train", "ship": {"step": 12, "time": 1.0}},
        "is_completed": True,
        "ok": True,
        "errors": [],
    }
