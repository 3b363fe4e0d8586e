"""Puts one answer on the wire, at its scenario's pace and with its scenario's fault."""

import asyncio
import time
from dataclasses import replace

from shared.offline_model.answer_writer import DONE, AnswerWriter, estimated_usage
from shared.offline_model.answers import Answer, Usage
from shared.offline_model.chat_request import ChatRequest
from shared.offline_model.connection import HttpResponse
from shared.offline_model.protocol import ApiError
from shared.offline_model.recorder import Call, Recorder
from shared.offline_model.scenarios import Fault, Scenario

JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"
HTML = "text/html; charset=utf-8"
HTML_PAGE = b"<!DOCTYPE html><html><body><h1>Sign in to this network</h1></body></html>"
BROKEN_OFF = ApiError(500, "The server had an error while answering.", kind="server_error")


class Delivery:
    """One answer to one request, on its way out. `send` is called once."""

    def __init__(
        self,
        request: ChatRequest,
        scenario: Scenario,
        answer: Answer,
        call: Call,
        recorder: Recorder,
        answer_id: str,
    ) -> None:
        if scenario.finish_reason:
            answer = replace(answer, finish_reason=scenario.finish_reason)
        self._request = request
        self._scenario = scenario
        self._answer = answer.bounded(request.max_tokens)
        self._call = call
        self._recorder = recorder
        self._writer = AnswerWriter(request, answer_id, created=int(time.time()))
        self._start = asyncio.get_running_loop().time()

    async def send(self, response: HttpResponse) -> None:
        """Send the answer, or as much of it as the fault allows. Raises a `status` fault."""
        fault = self._scenario.fault
        if fault is Fault.HANG:
            await _for_ever()
        elif fault is Fault.DROP:
            self._end()
        elif fault is Fault.STATUS:
            await self._pause_before(0)
            raise status_error(self._scenario)
        elif fault is Fault.HTML:
            await self._pause_before(0)
            self._send_whole(response, HTML_PAGE, HTML)
        elif self._request.stream:
            await self._send_stream(response, fault)
        else:
            await self._pause_before(max(len(self._answer.pieces) - 1, 0))
            await self._send_plain(response, fault)

    # --- a stream

    async def _send_stream(self, response: HttpResponse, fault: Fault | None) -> None:
        await self._pause_before(0)
        response.start(EVENT_STREAM)
        self._call.status = 200
        if fault is Fault.EMPTY_CHOICES:
            await response.chunk(self._writer.no_choices())
        else:
            await response.chunk(self._writer.role())
            await self._send_pieces(response)
        if fault is None:
            await self._send_reason_and_usage(response)
        elif fault is Fault.HANG_AFTER:
            await _for_ever()
        self._end()
        if fault is not Fault.CUT_AFTER:
            response.finish(self._last_event(fault))

    async def _send_pieces(self, response: HttpResponse) -> None:
        encode, send, count = self._writer.piece, response.chunk, self._recorder.count_pieces
        paced = self._scenario.token_delay > 0
        for number, piece in enumerate(self._answer.pieces[: self._scenario.fault_after]):
            if paced and number:
                await self._pause_before(number)
            count(self._call)
            await send(encode(piece))

    async def _send_reason_and_usage(self, response: HttpResponse) -> None:
        await response.chunk(self._writer.finish(self._answer.finish_reason))
        if self._request.include_usage and (usage := self._usage()):
            await response.chunk(self._writer.usage(usage))

    def _last_event(self, fault: Fault | None) -> bytes:
        match fault:
            case Fault.MALFORMED_AFTER:
                return self._writer.broken()
            case Fault.ERROR_AFTER:
                return BROKEN_OFF.event()
            case Fault.END_EARLY_AFTER:
                return b""
        return DONE

    # --- a plain answer

    async def _send_plain(self, response: HttpResponse, fault: Fault | None) -> None:
        answer = self._answer
        whole = self._writer.completion(answer, answer.finish_reason, self._usage())
        match fault:
            case None:
                self._recorder.count_pieces(self._call, len(answer.pieces))
                self._send_whole(response, whole)
            case Fault.HANG_AFTER:
                await _for_ever()
            case Fault.CUT_AFTER:
                self._end(200)
                response.send_part(JSON, whole, len(whole) // 2)
            case Fault.MALFORMED_AFTER:
                self._send_whole(response, whole[: len(whole) // 2])
            case Fault.ERROR_AFTER:
                self._send_whole(response, BROKEN_OFF.body())
            case Fault.EMPTY_CHOICES:
                self._send_whole(response, self._writer.completion(None, None, self._usage()))
            case Fault.END_EARLY_AFTER:
                part = answer.first(self._scenario.fault_after or 0)
                self._send_whole(response, self._writer.completion(part, None, self._usage()))

    def _send_whole(self, response: HttpResponse, body: bytes, content_type: str = JSON) -> None:
        self._end(200)
        response.send(200, content_type, body)

    # --- both

    def _end(self, status: int | None = None) -> None:
        """Close the record: before the last bytes, so that a client that has them finds it so."""
        self._call.status = status or self._call.status
        self._recorder.end(self._call, "faulted" if self._scenario.fault else "completed")

    async def _pause_before(self, number: int) -> None:
        """Until piece `number` is due. Counted from the start, so that lateness does not add up."""
        delay = self._scenario.first_token_delay + number * self._scenario.token_delay
        if delay > 0:
            await asyncio.sleep(self._start + delay - asyncio.get_running_loop().time())

    def _usage(self) -> Usage | None:
        usage = self._scenario.usage
        if isinstance(usage, Usage):
            return usage
        return estimated_usage(self._request, self._answer) if usage else None


def status_error(scenario: Scenario) -> ApiError:
    """The error that OpenAI sends with the scenario's status."""
    status = scenario.status or 500
    message, kind, code = {
        401: ("Incorrect API key provided.", "invalid_request_error", "invalid_api_key"),
        403: ("This key may not use this model.", "permission_error", None),
        404: ("The model does not exist.", "invalid_request_error", "model_not_found"),
        429: ("Rate limit reached. Try again later.", "requests", "rate_limit_exceeded"),
        503: ("The engine is currently overloaded.", "overloaded_error", "overloaded"),
        529: ("The engine is currently overloaded.", "overloaded_error", "overloaded"),
    }.get(status, _other_error(status))
    headers = [] if scenario.retry_after is None else [("retry-after", str(scenario.retry_after))]
    return ApiError(status, message, kind=kind, code=code, headers=headers)


def _other_error(status: int) -> tuple[str, str, str | None]:
    if status < 500:
        return "The request was refused.", "invalid_request_error", None
    return "The server had an error while processing the request.", "server_error", None


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
