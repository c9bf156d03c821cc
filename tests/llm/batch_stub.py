"""The Batch API on the stub server: files, batches, output files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from tests.stub_server import Call, Reply

Answering = Callable[[dict[str, Any]], str | None]


class BatchStub:
    """A reply function for ``StubServer``; a batch finishes after it has been polled a few times.

    Args:
        answer: returns the answer's text for a request body, or ``None`` if the request is to fail.
        looks: how often a batch is polled before it finishes.
        status: final status of a batch.
        fault: error message of a failed batch.
        split: whether failed requests are in a separate file, as with OpenAI.
    """

    def __init__(
        self, answer: Answering, looks: int = 1, status: str = "completed", fault: str = "", split: bool = False
    ) -> None:
        self.answer, self.looks, self.status, self.fault, self.split = answer, looks, status, fault, split
        self.files: dict[str, list[dict[str, Any]]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.submitted: list[str] = []
        self.live: list[dict[str, Any]] = []

    def __call__(self, call: Call) -> Reply:
        """Answer a call according to its path."""
        if call.path == "/v1/files":
            return self._file(call)
        if call.path == "/v1/batches":
            return self._batch(call)
        if call.path.startswith("/v1/batches?"):
            states = [self._state(name, "in_progress") for name in self.batches]
            return Reply(body={"object": "list", "data": states, "has_more": False})
        if found := re.fullmatch(r"/v1/batches/([\w-]+)", call.path):
            return self._look(found[1])
        if found := re.fullmatch(r"/v1/files/([\w-]+)/content", call.path):
            return Reply(body=self._lines(*found[1].split("-", 1)))
        if call.path == "/v1/chat/completions":
            self.live.append(call.body)
            text = self.answer(call.body)
            return Reply(status=400) if text is None else Reply(text=text)
        return Reply(status=500)

    def _file(self, call: Call) -> Reply:
        name = f"file-{len(self.files)}"
        lines = [line for line in call.raw.decode().splitlines() if line.startswith('{"custom_id"')]
        self.files[name] = [json.loads(line) for line in lines]
        file = {"id": name, "object": "file", "bytes": 1, "created_at": 0, "filename": "f", "purpose": "batch"}
        return Reply(body={**file, "status": "processed"})

    def _batch(self, call: Call) -> Reply:
        name = f"batch-{len(self.batches)}"
        self.batches[name] = {
            "file": call.body["input_file_id"],
            "metadata": call.body.get("metadata"),
            "looks": 0,
        }
        self.submitted += [line["custom_id"] for line in self.files[call.body["input_file_id"]]]
        return Reply(body=self._state(name, "validating"))

    def _look(self, name: str) -> Reply:
        self.batches[name]["looks"] += 1
        done = self.batches[name]["looks"] > self.looks
        return Reply(body=self._state(name, self.status if done else "in_progress"))

    def _state(self, name: str, status: str) -> dict[str, Any]:
        file = self.batches[name]["file"]
        state = {"id": name, "object": "batch", "endpoint": "/v1/chat/completions", "input_file_id": file}
        state |= {"completion_window": "24h", "created_at": 0, "status": status}
        state["metadata"] = self.batches[name]["metadata"]
        if self.fault and status == "failed":
            state["errors"] = {"object": "list", "data": [{"code": "c", "message": self.fault}]}
        kinds = {"output_file_id": "out", "error_file_id": "err"} if self.split else {"output_file_id": "out"}
        # OpenAI provides only files that hold at least one line.
        named = {key: f"{kind}-{file}" for key, kind in kinds.items() if self._lines(kind, file)}
        return state | (named if status == "completed" else {})

    def _lines(self, kind: str, file: str) -> str:
        """Contents of a file: answers (``out``) or failures (``err``); without ``split``, one file holds both."""
        lines = [output_line(line, self.answer(line["body"])) for line in self.files[file]]
        if self.split:
            lines = [line for line in lines if (line["response"]["status_code"] == 200) == (kind == "out")]
        return "".join(json.dumps(line) + "\n" for line in lines)


def output_line(line: dict[str, Any], text: str | None, tokens: tuple[int, int] = (100, 10)) -> dict[str, Any]:
    """The Batch API's output line for an input line; a failed request if ``text`` is ``None``."""
    if text is None:
        response = {"status_code": 400, "body": {"error": {"message": "stub says 400"}}}
        return {"id": "r", "custom_id": line["custom_id"], "response": response, "error": None}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return {"id": "r", "custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}


def three_candidates(body: dict[str, Any]) -> str:
    """Answer LLM-DMsRec's prompt with the first three candidates offered."""
    data = json.loads(body["messages"][-1]["content"].rsplit("\n", 1)[-1])
    return json.dumps({"intents": data["candidates"][:3]})
