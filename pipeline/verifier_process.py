"""A verifier in a process of its own: model output is hostile text, so it is judged where it can be killed."""

from typing import Any

from pipeline.workers import limit_memory, serve

MEMORY_BYTES = 2 << 30


def main() -> None:
    from pipeline.verifiers import math

    limit_memory(MEMORY_BYTES)
    judges = {"math": math.judge}

    def judge(verifier: str, gold_answer: str, response_text: str) -> dict[str, Any]:
        verdict, extracted = judges[verifier](gold_answer, response_text)
        return {"verdict": verdict, "extracted_answer": extracted}

    serve({"ready": lambda: {}, "judge": judge})


if __name__ == "__main__":
    main()
