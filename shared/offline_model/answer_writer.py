"""Writes an answer in OpenAI's shapes, whole or chunk by chunk.

They are those of https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming.
"""

from json.encoder import encode_basestring_ascii as quote  # the C encoder, about 0.1 us a piece

from shared.offline_model.answers import Answer, Piece, ToolPiece, Usage
from shared.offline_model.chat_request import ChatRequest
from shared.offline_model.protocol import JsonObject, dump

DONE = b"data: [DONE]\n\n"


class AnswerWriter:
    """Writes one answer, whole or chunk by chunk.

    What all chunks share is serialised once, here: a streamed piece then costs one concatenation.
    """

    def __init__(self, request: ChatRequest, answer_id: str, created: int) -> None:
        self._id = answer_id
        self._shared = {"created": created, "model": request.model}
        shared = {"id": f"chatcmpl-{answer_id}", "object": "chat.completion.chunk", **self._shared}
        # With include_usage every chunk but the last says that its usage is not known.
        usage = ',"usage":null' if request.include_usage else ""
        self._head = f"data: {dump(shared)[:-1]}"
        self._delta_head = f'{self._head},"choices":[{{"index":0,"delta":'
        self._text_head = f'{self._delta_head}{{"content":'
        self._delta_tail = f',"logprobs":null,"finish_reason":null}}]{usage}}}\n\n'
        self._text_tail = f"}}{self._delta_tail}"
        self._finish_tail = f"}}]{usage}}}\n\n"

    def role(self) -> bytes:
        return self._delta('{"role":"assistant","content":""}')

    def piece(self, piece: Piece) -> bytes:
        if isinstance(piece, str):
            return (self._text_head + quote(piece) + self._text_tail).encode("ascii")
        return self._delta(dump({"tool_calls": [self._tool_delta(piece)]}))

    def finish(self, reason: str) -> bytes:
        end = f'{{}},"logprobs":null,"finish_reason":{quote(reason)}'
        return f"{self._delta_head}{end}{self._finish_tail}".encode("ascii")

    def usage(self, usage: Usage) -> bytes:
        return f'{self._head},"choices":[],"usage":{dump(usage.as_json())}}}\n\n'.encode("ascii")

    def no_choices(self) -> bytes:
        return f'{self._head},"choices":[]}}\n\n'.encode("ascii")

    def broken(self) -> bytes:
        return f'{self._delta_head}{{"content":"bro\n\n'.encode("ascii")

    def completion(self, answer: Answer | None, reason: str | None, usage: Usage | None) -> bytes:
        """The whole answer as one body; without an answer, one without choices."""
        choice = answer and {
            "index": 0,
            "message": self._message(answer),
            "logprobs": None,
            "finish_reason": reason,
        }
        body = {
            "id": f"chatcmpl-{self._id}",
            "object": "chat.completion",
            **self._shared,
            "choices": [choice] if choice else [],
        }
        if usage:
            body["usage"] = usage.as_json()
        return dump(body).encode("ascii")

    def _delta(self, delta: str) -> bytes:
        return f"{self._delta_head}{delta}{self._delta_tail}".encode("ascii")

    def _tool_delta(self, piece: ToolPiece) -> JsonObject:
        if piece.name is None:
            return {"index": piece.index, "function": {"arguments": piece.arguments}}
        function = {"name": piece.name, "arguments": piece.arguments}
        return {
            "index": piece.index,
            "id": f"call_{self._id}_{piece.index}",
            "type": "function",
            "function": function,
        }

    def _message(self, answer: Answer) -> JsonObject:
        text = "".join(piece for piece in answer.pieces if isinstance(piece, str))
        calls: list[JsonObject] = []
        arguments: list[list[str]] = []
        for piece in answer.pieces:
            if isinstance(piece, ToolPiece):
                if piece.name is not None:
                    calls.append(self._tool_delta(piece))
                    arguments.append([])
                arguments[-1].append(piece.arguments)
        message: JsonObject = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            for call, pieces in zip(calls, arguments, strict=True):
                del call["index"]
                call["function"]["arguments"] = "".join(pieces)
            message |= {"content": text or None, "tool_calls": calls}
        return message


def estimated_usage(request: ChatRequest, answer: Answer) -> Usage:
    """A stand-in for a tokenizer: four characters a token in, one piece a token out."""
    characters = sum(len(str(message.get("content") or "")) for message in request.messages)
    return Usage(characters // 4 + 4 * len(request.messages), len(answer.pieces))
