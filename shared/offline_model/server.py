"""Routes, keys and refusals: from an HTTP request to a recorded, delivered answer."""

import asyncio
import itertools
import logging
from collections.abc import Iterable

from shared.offline_model.assistant.reply import reply
from shared.offline_model.chat_request import ChatRequest, read_chat_request, read_json
from shared.offline_model.connection import HttpRequest, HttpResponse
from shared.offline_model.delivery import JSON, Delivery
from shared.offline_model.protocol import ApiError, JsonObject, dump
from shared.offline_model.recorder import Call, Recorder
from shared.offline_model.scenarios import Scenario, Script

COMPLETIONS = "/v1/chat/completions"
MODELS = "/v1/models"
ASSISTANT = Scenario()

logger = logging.getLogger(__name__)


class ModelServer:
    """Answers every HTTP request to the model. `session` makes the ids of its answers unique."""

    def __init__(
        self,
        script: Script,
        recorder: Recorder,
        *,
        models: Iterable[str],
        api_key: str | None,
        session: str,
    ) -> None:
        self.stopping = False
        self._script = script
        self._recorder = recorder
        self._models = tuple(models)
        self._api_key = api_key
        self._session = session
        self._numbers = itertools.count(1)

    async def handle(self, request: HttpRequest, response: HttpResponse) -> None:
        try:
            if request.path == COMPLETIONS:
                await self._complete(request, response)
            else:
                response.send(200, JSON, dump(self._describe(request)).encode("ascii"))
        except ApiError as error:
            response.send(error.status, JSON, error.body(), error.headers)

    # --- GET /v1/models, GET /v1/models/{id}

    def _describe(self, request: HttpRequest) -> JsonObject:
        if request.path != MODELS and not request.path.startswith(f"{MODELS}/"):
            raise ApiError(404, f"Invalid URL ({request.method} {request.path}).")
        _check_method(request, "GET")
        self._check_key(request)
        if request.path == MODELS:
            return {"object": "list", "data": [_model_card(model) for model in self._models]}
        return _model_card(self._check_model(request.path.removeprefix(f"{MODELS}/")))

    # --- POST /v1/chat/completions

    async def _complete(self, request: HttpRequest, response: HttpResponse) -> None:
        _check_method(request, "POST")
        body, refusal = _read_body(request)
        call = self._recorder.begin(body, request.headers)
        try:
            if refusal:
                raise refusal
            self._check_key(request)
            await self._answer(call, read_chat_request(body), response)
        except ApiError as error:
            call.status = error.status
            self._recorder.end(call, "faulted")
            raise
        except asyncio.CancelledError:
            self._recorder.end(call, "faulted" if self.stopping else "cancelled")
            raise

    async def _answer(self, call: Call, chat: ChatRequest, response: HttpResponse) -> None:
        self._check_model(chat.model)
        scenario = self._next_scenario(call)
        answer = scenario.answer() or reply(chat)
        answer_id = f"{self._session}{next(self._numbers)}"
        await Delivery(chat, scenario, answer, call, self._recorder, answer_id).send(response)

    def _next_scenario(self, call: Call) -> Scenario:
        try:
            return self._script.next(call) or ASSISTANT
        except Exception as exc:  # a test's own callable: whatever it raises, the client is told
            logger.exception("the dynamic scenario of call %d failed", call.number)
            message = f"The dynamic scenario raised {exc!r}."
            raise ApiError(500, message, kind="server_error") from exc

    # --- refusals

    def _check_key(self, request: HttpRequest) -> None:
        scheme, _, key = request.header("authorization").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(
                401,
                "You didn't provide an API key. Send it as a header: Authorization: Bearer KEY."
                " This is the offline model: any key will do unless it was started with one.",
            )
        if self._api_key is not None and key.strip() != self._api_key:
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")

    def _check_model(self, model: str) -> str:
        if model not in self._models:
            raise ApiError(
                404,
                f"The model '{model}' does not exist. This server has {', '.join(self._models)}.",
                code="model_not_found",
                param="model",
            )
        return model


def _check_method(request: HttpRequest, allowed: str) -> None:
    if request.method != allowed:
        raise ApiError(
            405,
            f"Not allowed to {request.method} on {request.path}; use {allowed}.",
            code="method_not_supported",
            headers=[("allow", allowed)],
        )


def _read_body(request: HttpRequest) -> tuple[JsonObject, ApiError | None]:
    """The body, or an empty one and what is wrong with it: refused calls are recorded too."""
    if request.too_large:
        return {}, ApiError(413, "The body is too large.", code="request_too_large")
    try:
        return read_json(request.body), None
    except ApiError as error:
        return {}, error


def _model_card(model: str) -> JsonObject:
    return {"id": model, "object": "model", "created": 1735689600, "owned_by": "offline"}
