"""What serve.py answers over HTTP: predictions, vectors, words with their weights, and the page.

Every error has its HTTP status and the body {"error": "what was expected; what was found; what to do"}.
Needs the extra: pip install -e '.[serve]'
"""

import asyncio
import reprlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, FailFast
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bert.tokenizer import SURROGATE
from data.reader import is_blank
from heads import MultitaskBert
from heads.inference import answers, encode, outputs
from runtime.errors import UsageError, check_name, nearest
from web.batcher import Batcher
from web.limits import Limits
from web.words import word_weights

PAGE = Path(__file__).parent / "page.html"
NO_JSON = "expected a JSON object, with content-type: application/json; found none; see /docs"
Texts = Annotated[list[str], FailFast()]  # reports the first bad text alone, not a million of them


class Rows(BaseModel, extra="forbid"):
    """`texts`, or for a task that reads pairs `texts_a` and `texts_b`, one of each for a pair."""

    texts: Texts = []
    texts_a: Texts = []
    texts_b: Texts = []
    model_config = {"json_schema_extra": {"example": {"texts": ["A quiet, wonderful film."]}}}


class ToEncode(BaseModel, extra="forbid"):
    texts: Texts
    normalize: bool = False  # vectors of length 1, whose products are cosines
    model_config = {"json_schema_extra": {"example": {"texts": ["A quiet, wonderful film."], "normalize": True}}}


class Answer(BaseModel):
    prediction: int | float | str | list[int | str]  # a class, a number, or a list of classes
    probabilities: dict[str, float] | None = None  # by class; None for a score


class Predictions(BaseModel):
    predictions: list[Answer]


class Vectors(BaseModel):
    vectors: list[list[float]]


class Words(BaseModel):
    """For each row its texts (one for a pair read together), for each text its words and weights, which sum to 1."""

    words: list[list[list[tuple[str, float]]]]


def refusal(status: int, text: str, **headers: str) -> JSONResponse:
    return JSONResponse({"error": " ".join(text.split())}, status, headers)


def bounded(app: ASGIApp, limits: Limits) -> ASGIApp:
    """The app, but for POSTs beyond the limits: too many at once, or a body that is too large or comes too slowly."""
    room = asyncio.Semaphore(limits.max_requests)

    async def within_limits(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await app(scope, receive, send)
        elif room.locked():
            found = f"expected {limits.max_requests} requests at once; found one more; try later"
            await refusal(503, found, connection="close")(scope, receive, send)  # its body is not read
        else:
            async with room:
                await app(scope, limited_body(receive, limits), send)

    return within_limits


def limited_body(receive: Receive, limits: Limits) -> Receive:
    """The parts of a request's body. Raises HTTPException where it is too slow, or too large: then only at its end, for
    a client that still sends sees no answer."""
    size, end = 0, time.monotonic() + limits.max_seconds

    async def next_part() -> Message:
        nonlocal size
        more = True
        while more:
            try:
                part = await asyncio.wait_for(receive(), end - time.monotonic())
            except asyncio.TimeoutError:
                expected = f"expected the request within {limits.max_seconds:g} seconds"
                found = "found a part of it; send less at once"
                raise HTTPException(408, f"{expected}; {found}", {"connection": "close"}) from None
            size, more = size + len(part.get("body", b"")), part.get("more_body", False)
            if size <= limits.max_bytes:
                return part
        raise HTTPException(413, f"expected {limits.max_bytes:,} bytes at most; found {size:,}; send less at once")

    return next_part


def predict(model: MultitaskBert, amp: str, task: str, sides: list[list[str]]) -> list[dict]:
    return answers(model, task, outputs(model, [task], sides, amp)[task])


def attend(model: MultitaskBert, amp: str, task: str, sides: list[list[str]]) -> list[list[list[tuple[str, float]]]]:
    if not model.tasks[task].apart:
        return [[words] for words in word_weights(model, list(zip(*sides, strict=True)), amp)]
    return [list(texts) for texts in zip(*(word_weights(model, side, amp) for side in sides), strict=True)]


def vectors(model: MultitaskBert, amp: str, normalize: bool, sides: list[list[str]]) -> list[list[float]]:
    return encode(model, sides[0], normalize=normalize, amp=amp).tolist()


def compute(model: MultitaskBert, amp: str, key: tuple, rows: Sequence[tuple[str, ...]]) -> list:
    """An answer for each row. key: `predict`, `attend` or `vectors`, and its argument: the task, or `normalize`."""
    function, argument = key
    return function(model, amp, argument, [list(side) for side in zip(*rows, strict=True)])


def checked_rows(sides: dict[str, list[str]], max_texts: int) -> list[tuple[str, ...]]:
    """Texts, or the two sides of pairs, as rows. Raises HTTPException for a blank text, for none or too
    many, and for sides that differ in number."""
    for name, texts in sides.items():
        if not 0 < len(texts) <= max_texts:
            found = f"{name}: expected 1 to {max_texts} texts; found {len(texts)}"
            raise HTTPException(413 if texts else 422, f"{found}; send {'fewer' if texts else 'some'}")
        for row, text in enumerate(texts):
            if is_blank(text) or SURROGATE.search(text):
                raise HTTPException(
                    422, f"{name}[{row}]: expected a text; found {reprlib.repr(text)}; leave the row out"
                )
    if len({len(texts) for texts in sides.values()}) > 1:
        found = " and ".join(str(len(texts)) for texts in sides.values())
        raise HTTPException(422, f"{' and '.join(sides)}: expected as many of both; found {found}; send pairs")
    return list(zip(*sides.values(), strict=True))


def make_app(model: MultitaskBert, name: str, batcher: Batcher, limits: Limits) -> FastAPI:
    """The server of one model. name: what people call the model."""
    app = FastAPI(title="Minimal multi-task BERT", description=f"What {name} says of your texts.", version="1")
    app.add_middleware(bounded, limits=limits)
    has_attention = model.config.pooling == "attention_mean"

    def rows_of(name: str, body: Rows) -> list[tuple[str, ...]]:
        try:
            check_name("task", model.tasks, name)
        except UsageError as unknown:
            raise HTTPException(404, f"{unknown}; see /docs") from None
        side_names = ["texts"] if len(model.tasks[name].texts) == 1 else ["texts_a", "texts_b"]
        sides = {side: texts for side, texts in body if texts}
        if [*sides] != side_names:
            found = " and ".join(sides) or "none"
            raise HTTPException(422, f"{name}: expected {' and '.join(side_names)}; found {found}; see /docs")
        return checked_rows(sides, limits.max_texts)

    async def answer_rows(key: tuple, rows: Sequence[tuple[str, ...]]) -> list:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(batcher.submit(key, rows)), limits.max_seconds)
        except asyncio.TimeoutError:
            found = "found a busy server; send fewer texts or try later"
            raise HTTPException(503, f"expected an answer within {limits.max_seconds:g} seconds; {found}") from None

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE)

    @app.get("/health")
    async def health() -> dict:
        """The model's tasks; how many requests were answered, in how many passes over the model."""
        tasks = [
            {name: getattr(task, name) for name in ("name", "texts", "classes", "several", "meaning")}
            | ({"range": task.range} if task.range else {})
            for task in model.tasks.values()
        ]
        counts = {"requests": batcher.jobs, "passes": batcher.passes}
        return {"status": "ok", "model": name, "tasks": tasks, "attention": has_attention, **counts}

    @app.post("/predict/{task}", response_model=Predictions, response_model_exclude_none=True)
    async def predict_task(task: str, body: Rows) -> dict:
        """A class and the probability of each, or a number, for every text or pair."""
        return {"predictions": await answer_rows((predict, task), rows_of(task, body))}

    @app.post("/encode", response_model=Vectors)
    async def encode_texts(body: ToEncode) -> dict:
        """A sentence vector for every text, before any head."""
        rows = checked_rows({"texts": body.texts}, limits.max_texts)
        return {"vectors": await answer_rows((vectors, body.normalize), rows)}

    @app.post("/attention/{task}", response_model=Words)
    async def attention(task: str, body: Rows) -> dict:
        """The words as the model reads them, weighted by the attention that they receive."""
        if not has_attention:
            found = f"found {model.config.pooling}; train one with --pooling attention_mean"
            raise HTTPException(404, f"expected a model that pools by attention_mean; {found}")
        return {"words": await answer_rows((attend, task), rows_of(task, body))}

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return refusal(error.status_code, error.detail, **(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid" or first["loc"] == ("body",):
            return refusal(422, NO_JSON)
        place, expected = ".".join(map(str, first["loc"][1:])), first["msg"].replace("Input should be", "expected")
        if first["type"] == "extra_forbidden":
            fields = [*(ToEncode if request.url.path == "/encode" else Rows).model_fields]
            return refusal(422, f"expected {', '.join(fields)}; found {place!r:.99}{nearest(place, fields)}; see /docs")
        return refusal(422, f"{place}: {expected}; found {reprlib.repr(first['input'])}; see /docs")

    @app.exception_handler(StarletteHTTPException)
    async def http(request: Request, error: StarletteHTTPException) -> JSONResponse:
        if error.status_code == 400:  # a body that is not UTF-8, or nested too deep
            return refusal(422, NO_JSON)
        text = f"{request.method} {request.url.path}: {error.detail}; see /docs"
        return refusal(error.status_code, text, **(error.headers or {}))  # of a wrong method: those that there are

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> JSONResponse:  # uvicorn writes its traceback to stderr
        return refusal(500, f"expected an answer; found {type(error).__name__}: {error}; the server's stderr has more")

    return app
