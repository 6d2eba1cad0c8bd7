"""A chat release in its worker: looks at inputs and at whole answers, and makes what the model will read.

Runs where user code runs: the checks of the service's own, its types and its validators. A task that goes wrong is
answered by a name and costs its mates nothing. It never speaks to an upstream and never sees a key.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from pydantic import BaseModel, TypeAdapter, ValidationError

from nightproof.base.clock import monotonic_s, utc_now
from nightproof.base.errors import DeclarationError, FieldError
from nightproof.base.masking import marked_pointers
from nightproof.base.strictjson import JsonRefused, parse
from nightproof.checks import tokens
from nightproof.checks.chat_tasks import (
    Finding,
    InputTask,
    InputVerdict,
    OutputTask,
    OutputVerdict,
    task_decoder,
    task_encoder,
)
from nightproof.checks.inspecting import Channel, Inspector, Untrusted
from nightproof.checks.spotlight import escape, spotlit, words_for
from nightproof.checks.text import calibration as thresholds
from nightproof.declare.chat import ChatService, template_parts
from nightproof.declare.chat_description import ChatDescription
from nightproof.declare.describe import Description
from nightproof.declare.endpoint import DeclaredCheck
from nightproof.declare.fields import UNTRUSTED_WORD
from nightproof.declare.folder import read_golden
from nightproof.workers.chat_golden import ChatCase, chat_cases, trouble_with
from nightproof.workers.chat_seen import SeenBefore
from nightproof.workers.usercode import failed, field_errors, is_finite
from nightproof.workers.wire import Answer

if TYPE_CHECKING:  # only where a golden case is an answer
    from nightproof.checks.leaving import OutputScanner

_CHANNELS: dict[str, Channel] = {"tool": "tool", "function": "tool"}
_OPERATORS = ("system", "developer")
_GOLDEN_BOUNDARY = "0" * 24
_FENCE = "```"
_ODD_TEXTS = ("name", "refusal")
"""Texts of a message beside its content; most messages have none."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NULL = msgspec.Raw(b"null")

_Texts = list[Untrusted]


class LoadedChat:
    """The user's chat service, with its detectors loaded: turns tasks into verdicts."""

    def __init__(self, service: ChatService, folder: Path, description: Description) -> None:
        if description.chat is None:
            raise DeclarationError(f"Service {service.name!r} is described as no chat service.")
        self._service = service
        self._chat: ChatDescription = description.chat
        adapters = _adapters(self._chat)
        calibration = folder / thresholds.FILE_NAME
        has_adapters = any(check.adapter for check in self._chat.input_checks.values())
        self._inspector = SeenBefore(
            Inspector(self._chat.input_checks, calibration=calibration, adapters=adapters),
            remembers=not has_adapters,  # what somebody else judges, he may judge otherwise tomorrow
        )
        # A vendor that is away makes requests fail or pass, as declared; it makes no worker unfit.
        local = {
            name: check
            for name, check in self._chat.input_checks.items()
            if not check.adapter.startswith(("http://", "https://"))
        }
        self._golden_inspector = SeenBefore(
            Inspector(local, calibration=calibration, adapters=adapters), remembers=False
        )
        self._rules: Callable[[], OutputScanner] | None = None
        self._typed = _Typed(service, self._chat) if service.is_typed else None
        self._prompt_tokens = tokens.estimate(self._chat.prompt) + tokens.MESSAGE_TOKENS
        self._golden: list[ChatCase] = chat_cases(
            read_golden(folder, utc_now()), service.input, boundary=_GOLDEN_BOUNDARY
        )

    def answer(self, items: Sequence[bytes]) -> tuple[list[Answer], bool]:
        """Answer each task by a verdict, as JSON. Each is looked at by itself, so none needs to be alone."""
        if len(items) == 1:
            return [self._answer_one(items[0])], False
        begun = [self._begin(item) for item in items]
        self._inspector.look_ahead(
            (one.conversation.texts, one.conversation.last_message)
            for one in begun
            if isinstance(one, _Begun) and one.conversation is not None and one.conversation.error is None
        )
        try:
            return [one if isinstance(one, Answer) else self._finish(one) for one in begun], False
        finally:
            self._inspector.forget_ahead()

    def look_at(self, task: InputTask | OutputTask) -> InputVerdict | OutputVerdict:
        """Say what the checks say of one task. Raises what the user's validators raise."""
        return self._look_at(task, self._inspector)

    def answer_by_rule(self, items: Sequence[bytes], number: int) -> list[Answer]:
        """Say that a chat service has no rules to answer by."""
        return [Answer(failure="invalid_output", detail=f"fallback {number} is no rule") for _ in items]

    def trouble_with_golden(self) -> str:
        """Look at the golden cases again; return what does not hold, or nothing."""
        for case in self._golden:
            try:
                verdict = self._leaving(case.task) or self._look_at(case.task, self._golden_inspector)
            except (Exception, SystemExit) as error:  # noqa: BLE001
                # As for a caller's task: a validator of the user's may raise anything.
                return f"golden.jsonl line {case.line}: {failed(error).detail}"
            if trouble := trouble_with(case, verdict):
                return trouble
        return ""

    def _leaving(self, task: InputTask | OutputTask) -> OutputVerdict | None:
        """Say what keeps a golden answer from leaving at all: the rules that the server holds every answer to."""
        if isinstance(task, InputTask):
            return None
        if self._rules is None:
            from nightproof.checks.leaving import CompiledRules, OutputScanner
            from nightproof.checks.prompt_shadow import PromptShadow

            rules = CompiledRules(self._chat.output)
            prompt = PromptShadow(self._chat.prompt, self._chat.output.sayable)
            self._rules = lambda: OutputScanner(rules, canary="", prompt=prompt)
        scanner = self._rules()
        scanner.feed(task.text)
        scanner.end()
        if not scanner.stopped:
            return None
        return OutputVerdict(failure="unsafe_output", detail=scanner.stopped, findings=scanner.findings)

    @property
    def golden_cases(self) -> int:
        """Count the golden cases."""
        return len(self._golden)

    def _answer_one(self, item: bytes) -> Answer:
        begun = self._begin(item)
        return begun if isinstance(begun, Answer) else self._finish(begun)

    def _begin(self, item: bytes) -> _Begun | Answer:
        """Read a task, and the conversation of one in OpenAI's form; a record is read by the user's own validators."""
        try:
            task = task_decoder.decode(item)
            if isinstance(task, InputTask) and self._typed is None:
                return _Begun(task, self._read(task))
            return _Begun(task, None)
        except (Exception, SystemExit) as error:  # noqa: BLE001
            # Whatever it is, it is this task's alone.
            return Answer(failure="check_failed", detail=failed(error).detail)

    def _finish(self, begun: _Begun) -> Answer:
        try:
            return Answer(
                output=task_encoder.encode(self._look_at(begun.task, self._inspector, begun.conversation))
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001
            # A validator of the user's may raise anything; it must not cost a worker, nor pass.
            return Answer(failure="check_failed", detail=failed(error).detail)

    def _look_at(
        self,
        task: InputTask | OutputTask,
        inspector: SeenBefore,
        conversation: _Conversation | None = None,
    ) -> InputVerdict | OutputVerdict:
        if isinstance(task, OutputTask):
            return self._look_out(task)
        return self._look_in(task, inspector, conversation)

    def _look_in(
        self, task: InputTask, inspector: SeenBefore, conversation: _Conversation | None
    ) -> InputVerdict:
        try:
            conversation = conversation or self._read(task)
        except ValidationError as error:
            return InputVerdict(failure="invalid_input", errors=field_errors(error))
        if conversation.error is not None:
            return InputVerdict(failure="invalid_input", errors=[conversation.error])
        seen = inspector.inspect(conversation.texts, last_message=conversation.last_message)
        verdict = InputVerdict(
            failure=seen.failure,
            detail=seen.detail,
            findings=list(seen.findings),
            redacted=dict(seen.redacted),
            bypassed=list(seen.bypassed),
            check_us=dict(seen.check_us),
            is_tainted=conversation.is_tainted,
            scores=dict(seen.scores),
        )
        if verdict.failure or self._refuses(conversation.given, verdict):
            return verdict
        verdict.messages = conversation.messages(seen.redacted)
        if conversation.is_tainted and self._chat.spotlight:
            verdict.spotlight = words_for(task.boundary)
        verdict.tokens = self._prompt_tokens + tokens.of_messages(verdict.messages)
        if task.tools:
            verdict.tokens += tokens.estimate(msgspec.json.encode(task.tools).decode())
        if 0 < self._chat.max_input_tokens < verdict.tokens:
            verdict.failure = "oversized_request"
            verdict.detail = f"about {verdict.tokens} tokens, and {self._chat.max_input_tokens} are taken"
            verdict.findings.append(Finding(check="size", action="refuse"))
            verdict.messages = []
        return verdict

    def _read(self, task: InputTask) -> _Conversation:
        marks = task.boundary if self._chat.spotlight else ""
        if self._typed is not None:
            return self._typed.read(task, marks)
        return _Messages(task, marks, refuses_system=self._chat.caller_system == "refuse")

    def _refuses(self, given: Any, verdict: InputVerdict) -> bool:
        """Ask the service's own input checks; say whether one refuses, and write what they found."""
        for check in self._service.input_checks:
            began_s = monotonic_s()
            found, broke = _ask(check, given)
            verdict.check_us[check.name] = int((monotonic_s() - began_s) * 1e6)
            if broke:
                verdict.failure, verdict.detail = "check_failed", broke
                verdict.findings.append(Finding(check=check.name, action="refuse"))
                return True
            if not found:
                continue
            verdict.findings.append(Finding(check=check.name, action=check.action))
            if check.action == "refuse":
                verdict.failure = "invalid_input"
                verdict.errors = [FieldError("", found, check.name)]
                return True
        return False

    def _look_out(self, task: OutputTask) -> OutputVerdict:
        given: Any = task.messages
        answer: Any = task.text
        verdict = OutputVerdict()
        if self._typed is not None and not (task.tool_calls and not task.text):
            read = self._typed.parse(task.text)
            if isinstance(read, OutputVerdict):
                return read
            answer, verdict.output = read
            given = self._typed.given(task.record)
        for check in self._service.output_checks:
            found, broke = _ask(check, given, answer)
            if broke:
                verdict.failure, verdict.detail = "check_failed", broke
            elif found:
                verdict.findings.append(Finding(check=check.name, action=_told(check.action)))
                if check.action == "fall_back":
                    verdict.failure, verdict.detail = "unsafe_output", f"{check.name}: {found}"
            if verdict.failure:
                verdict.output = _NULL
                break
        return verdict


class _Begun(NamedTuple):
    """A task that was read."""

    task: InputTask | OutputTask
    conversation: _Conversation | None


class _Conversation:
    """What an input says, as texts to be inspected and as messages to be sent."""

    error: FieldError | None = None
    last_message = ""
    """Under which pointer lies what is certainly new; empty where all of it may be."""
    given: Any = None
    """What the user's own checks are given."""

    def __init__(self) -> None:
        self.texts: _Texts = []
        self.is_tainted = False

    def messages(self, redacted: dict[str, str]) -> list[dict[str, Any]]:
        """Return what the model reads, with the redacted texts in place of the others."""
        raise NotImplementedError


class _Messages(_Conversation):
    """A conversation in OpenAI's form, all of it the caller's word: also what it says the assistant said."""

    def __init__(self, task: InputTask, marks: str, *, refuses_system: bool) -> None:
        super().__init__()
        self.given = task.messages
        self.last_message = f"/messages/{len(task.messages) - 1}/"
        self._messages = task.messages
        self._marks = marks
        for place, message in enumerate(task.messages):
            role = message.get("role")
            if refuses_system and role in _OPERATORS:
                told = "the system prompt is the service's own"
                self.error = FieldError(f"/messages/{place}/role", told, "system")
                return
            self._gather(message, _CHANNELS.get(str(role), "user"), f"/messages/{place}")
        for place, tool in enumerate(task.tools):
            function = tool.get("function")
            said = function.get("description") if isinstance(function, dict) else None
            if isinstance(said, str) and said:
                # A description is an instruction by nature, so it is not looked at as a document.
                self.texts.append(Untrusted(said, "user", f"/tools/{place}/function/description"))

    def _gather(self, message: dict[str, Any], channel: Channel, pointer: str) -> None:
        content = message.get("content")
        if message.get("source") == "document":
            channel = "document"
        if channel != "user":
            self.is_tainted = True
        for word in _ODD_TEXTS:
            said = message.get(word)
            if isinstance(said, str) and not _PLAIN_NAME.fullmatch(said):
                self.texts.append(Untrusted(said, "user", f"{pointer}/{word}"))
        if isinstance(content, str):
            self.texts.append(Untrusted(content, channel, f"{pointer}/content"))
        elif isinstance(content, list):
            for place, part in enumerate(content):
                text = part.get("text")
                if not isinstance(text, str):
                    if isinstance(refusal := part.get("refusal"), str):
                        self.texts.append(Untrusted(refusal, "user", f"{pointer}/content/{place}/refusal"))
                    continue
                is_document = _is_document(part)
                self.is_tainted |= is_document
                one: Channel = "document" if is_document else channel
                self.texts.append(Untrusted(text, one, f"{pointer}/content/{place}/text"))
        for place, call in enumerate(message.get("tool_calls") or ()):
            if written := _arguments(call):
                at = f"{pointer}/tool_calls/{place}/function/arguments"
                self.texts.append(Untrusted(written, "user", at))

    def messages(self, redacted: dict[str, str]) -> list[dict[str, Any]]:
        return [
            self._sent(message, f"/messages/{place}", redacted)
            for place, message in enumerate(self._messages)
        ]

    def _sent(self, message: dict[str, Any], pointer: str, redacted: dict[str, str]) -> dict[str, Any]:
        role = message.get("role")
        sent = dict(message)
        if role in _OPERATORS:
            sent["role"] = "user"
        is_data = sent.pop("source", "") == "document" or role in _CHANNELS
        for word in _ODD_TEXTS:
            if isinstance(said := message.get(word), str):
                sent[word] = escape(redacted.get(f"{pointer}/{word}", said))
        content = message.get("content")
        if isinstance(content, str):
            text = redacted.get(f"{pointer}/content", content) if redacted else content
            sent["content"] = self._written(text, is_data=is_data)
        elif isinstance(content, list):
            sent["content"] = [
                self._part(part, f"{pointer}/content/{place}/text", redacted, is_data=is_data)
                for place, part in enumerate(content)
            ]
        if redacted and message.get("tool_calls"):
            sent["tool_calls"] = [
                _redacted_call(call, redacted.get(f"{pointer}/tool_calls/{place}/function/arguments"))
                for place, call in enumerate(message["tool_calls"])
            ]
        return sent

    def _part(
        self, part: dict[str, Any], pointer: str, redacted: dict[str, str], *, is_data: bool
    ) -> dict[str, Any]:
        text = part.get("text")
        if not isinstance(text, str):
            if isinstance(refusal := part.get("refusal"), str):
                said = redacted.get(f"{pointer.removesuffix('/text')}/refusal", refusal)
                return {"type": "refusal", "refusal": escape(said)}
            return {name: value for name, value in part.items() if name != "source"}
        text = redacted.get(pointer, text)
        return {"type": "text", "text": self._written(text, is_data=is_data or _is_document(part))}

    def _written(self, text: str, *, is_data: bool) -> str:
        return spotlit(text, self._marks) if is_data and self._marks else escape(text)


class _Record(_Conversation):
    """A typed input, to be written into the template."""

    def __init__(self, typed: _Typed, given: BaseModel, fields: dict[str, Any], marks: str) -> None:
        super().__init__()
        self.given = given
        self._typed = typed
        self._fields = fields
        self._marks = marks
        for text, pointer, is_document in _texts_of(fields, "", typed.documents):
            self.is_tainted |= is_document and bool(text)
            self.texts.append(Untrusted(text, "document" if is_document else "user", pointer))

    def messages(self, redacted: dict[str, str]) -> list[dict[str, Any]]:
        fields = _replaced(self._fields, "", redacted) if redacted else self._fields
        return [{"role": "user", "content": self._typed.rendered(fields, self._marks)}]


class _Typed:
    """The types of a typed service, and its template."""

    def __init__(self, service: ChatService, chat: ChatDescription) -> None:
        if service.input is None or service.output is None:
            raise DeclarationError(f"Service {service.name!r} has no types.")
        self._input = TypeAdapter(service.input)
        self._output = TypeAdapter(service.output)
        self._parts = template_parts(service, chat.template)
        # Of the form that `read` writes: where aliases differ, the input's own schema has other names.
        schema = self._input.json_schema(by_alias=True, mode="serialization")
        self.documents = _tree(marked_pointers(schema, UNTRUSTED_WORD))
        self._names = {
            name: field.serialization_alias or field.alias or name
            for name, field in service.input.model_fields.items()
        }

    def given(self, record: msgspec.Raw) -> BaseModel:
        """Read an input, strictly. Raises ValidationError, or what the user's validators raise."""
        return self._input.validate_json(bytes(record), strict=True)

    def read(self, task: InputTask, marks: str) -> _Conversation:
        """Read a task's input. Raises ValidationError, or what the user's validators raise."""
        if task.messages:
            # A conversation would come past the input's type, and past the checks that take it.
            refused = _Conversation()
            refused.error = FieldError("/messages", "this service takes records on its own route", "typed")
            return refused
        given = self.given(task.record)
        fields = self._input.dump_python(given, mode="json", by_alias=True, warnings=False)
        return _Record(self, given, fields, marks)

    def rendered(self, fields: dict[str, Any], marks: str) -> str:
        """Write the fields into the template; documents stand between the request's marks."""
        written = []
        for text, attribute in self._parts:
            written.append(text)
            if not attribute:
                continue
            name = self._names[attribute]
            value = fields.get(name)
            told = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            is_document = name in self.documents
            written.append(spotlit(told, marks) if is_document and marks else escape(told))
        return "".join(written)

    def parse(self, text: str) -> tuple[BaseModel, msgspec.Raw] | OutputVerdict:
        """Read an answer as the output, strictly; one Markdown fence around it is taken off."""
        body = _unfenced(text).encode("utf-8", "surrogatepass")
        try:
            parse(body)
            answer = self._output.validate_json(body, strict=True)
            written = self._output.dump_json(answer, by_alias=True, warnings=False)
        except JsonRefused as error:
            told = f"the answer is not JSON: {error.detail}"
            return _misfit([FieldError(error.pointer or "", error.detail, error.reason)], told)
        except ValidationError as error:
            return _misfit(field_errors(error), "the answer does not fit the output's type")
        # Pydantic writes NaN and infinity as null, silently: where there is a null, look at the values.
        if b"null" in written and not is_finite(self._output.dump_python(answer, warnings=False)):
            return _misfit([], "the answer holds NaN or infinity")
        return answer, msgspec.Raw(written)


def _misfit(errors: list[FieldError], detail: str) -> OutputVerdict:
    return OutputVerdict(failure="invalid_output", detail=detail, errors=errors)


def _ask(check: DeclaredCheck, *values: Any) -> tuple[str, str]:
    """Run a check of the user's; return what it found, or in the second place why it gave no verdict."""
    try:
        found = check.function(*values)
    except (Exception, SystemExit) as error:  # noqa: BLE001
        # It is the user's: whatever it raises, the input has not passed.
        return "", f"check {check.name} raised {type(error).__name__}"
    if found is None or isinstance(found, str):
        return found or "", ""
    return "", f"check {check.name} returned {type(found).__name__}, not a text or None"


def _told(action: str) -> str:
    return "refuse" if action == "fall_back" else action


def _arguments(call: dict[str, Any]) -> str:
    function = call.get("function")
    written = function.get("arguments") if isinstance(function, dict) else None
    return written if isinstance(written, str) else ""


def _is_document(part: dict[str, Any]) -> bool:
    return part.get("type") == "document" or part.get("source") == "document"


def _redacted_call(call: dict[str, Any], arguments: str | None) -> dict[str, Any]:
    return call if arguments is None else {**call, "function": {**call["function"], "arguments": arguments}}


def _unfenced(text: str) -> str:
    """Take one Markdown fence off, if the whole text stands in it."""
    text = text.strip()
    if not (text.startswith(_FENCE) and text.endswith(_FENCE) and len(text) > 2 * len(_FENCE)):
        return text
    head, line, inside = text[len(_FENCE) : -len(_FENCE)].partition("\n")
    return inside.strip() if line and head.strip().isalnum() | (not head.strip()) else text


def _tree(pointers: Sequence[str]) -> dict[str, Any]:
    """Return pointers as a tree of their steps; a leaf is a field whose whole value is meant."""
    root: dict[str, Any] = {}
    for pointer in pointers:
        branch = root
        for step in pointer.split("/")[1:]:
            branch = branch.setdefault(step.replace("~1", "/").replace("~0", "~"), {})
    return root


def _texts_of(value: Any, pointer: str, documents: dict[str, Any] | None) -> Iterator[tuple[str, str, bool]]:
    """Yield each text of a record with its pointer, and whether it is a document. `None` stands for: it is all one."""
    if isinstance(value, str):
        yield value, pointer, documents is None
    elif isinstance(value, dict):
        if pointer and value:  # of a map, keys are the caller's words too
            yield " ".join(value), pointer, documents is None
        for name, one in value.items():
            step = name.replace("~", "~0").replace("/", "~1") if "~" in name or "/" in name else name
            yield from _texts_of(one, f"{pointer}/{step}", _below(documents, name))
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from _texts_of(one, f"{pointer}/{place}", _below(documents, "*"))


_NONE: dict[str, Any] = {}


def _below(documents: dict[str, Any] | None, step: str) -> dict[str, Any] | None:
    if not documents:
        return documents
    if (branch := documents.get(step, documents.get("*"))) is None:
        return _NONE
    return branch or None


def _replaced(value: Any, pointer: str, texts: dict[str, str]) -> Any:
    if isinstance(value, str):
        return texts.get(pointer, value)
    if isinstance(value, dict):
        return {
            name: _replaced(one, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}", texts)
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [_replaced(one, f"{pointer}/{place}", texts) for place, one in enumerate(value)]
    return value


def _adapters(chat: ChatDescription) -> dict[str, Callable[..., Any]]:
    """Import what the service's own adapters name: `module:function`, in its folder."""
    found: dict[str, Callable[..., Any]] = {}
    for name, check in chat.input_checks.items():
        if not check.adapter or check.adapter.startswith(("http://", "https://")):
            continue
        module, _, word = check.adapter.partition(":")
        try:
            function = getattr(importlib.import_module(module), word)
        except (ImportError, AttributeError) as error:
            raise DeclarationError(
                f"The adapter {check.adapter} of the check {name!r} is not there: {error}.",
                hint="Put the module beside service.py, or name another function.",
            ) from error
        if not callable(function):
            raise DeclarationError(
                f"The adapter {check.adapter} of the check {name!r} is no function.", hint="Name a function."
            )
        found[name] = function
    return found
